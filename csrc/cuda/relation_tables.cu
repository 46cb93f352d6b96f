// What the relation's half of the image gives once per relation: u, v, and J = dS/d delta.
#include <numeric>
#include <vector>

#include "factors.h"
#include "launch.cuh"

namespace tracin::cuda {
namespace {
#include "warp.cuh"

#include "jacobians.cuh"
}  // namespace

template <typename T>
void relation_tables(const Model<T>& m, T* u, T* v, T* jacobians, Device& device) {
  const Segment<T>& s = m.relation_half;
  const int64_t R = m.relations, D = m.D, F = m.C * s.P;
  std::vector<int32_t> ids(2 * R);  // every relation, with a head that none of its windows sees
  std::iota(ids.begin(), ids.begin() + R, 0);
  const int32_t* relations = device.upload(ids.data(), 2 * R);
  features(m, s, index_taps(s, m.J, device).by_tap, relations + R, relations, R, v, device);
  device.multiply(row_major<const T>(v, R, F), row_major(s.forward, F, D), row_major(u, R, D));
  if (!jacobians) return;
  run("jacobians", jacobians_kernel<T>, launch("jacobians", R * ceil_div(m.size_S(), lanes) * lanes), device.stream(),
      m, s, v, jacobians);
}

template void relation_tables(const Model<float>&, float*, float*, float*, Device&);
template void relation_tables(const Model<double>&, double*, double*, double*, Device&);

}  // namespace tracin::cuda
