// Two forms of a segment's taps [P, J], for the kernels after it: by_tap [J, P], whose neighbours lie under
// neighbouring threads, and the windows of each pixel: entries [J P] of values j P + p, those of pixel x from
// first[x] to first[x + 1]. A warp per pixel counts what comes before it, so no scan over pixels is needed.
// Cost: 2 X P J comparisons, once per block of triples.

template <typename T>
__global__ void taps_kernel(Segment<T> s, int64_t J,
                            int32_t* by_tap,     // [J, P], written
                            int32_t* first,      // [X + 1], written
                            int32_t* entries) {  // [J P], written
  const int64_t n = s.P * J, x = global_warp();
  for (int64_t i = global_thread(); i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    by_tap[i] = s.taps[i % s.P * J + i / s.P];
  if (x >= s.X) return;
  int before = 0;
  for (int64_t i = lane_id(); i < n; i += warp) before += s.taps[i] < x;
  before = warp_sum(before);
  if (lane_id() == 0) {
    first[x] = before;
    if (x == s.X - 1) first[s.X] = static_cast<int32_t>(n);
  }
  for (int64_t i0 = 0; i0 < n; i0 += warp) {
    const int64_t i = i0 + lane_id();
    const bool mine = i < n && s.taps[i] == x;
    const unsigned found = __ballot_sync(all_lanes, mine);
    if (mine) entries[before + __popc(found & ((1u << lane_id()) - 1))] = static_cast<int32_t>(i % J * s.P + i / J);
    before += __popc(found);
  }
}
