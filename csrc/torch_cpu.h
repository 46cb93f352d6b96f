// The ops on the CPU: its kernels with torch's threads, and torch's products where they are asked for.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/products.h"
#include "fields.h"
#include "team.h"

namespace tracin {

constexpr const char* no_memory = "out of memory: can't allocate the buffers of a block; take smaller blocks";

// For the extension's own products: as many threads as torch is to use here.
inline void on_team(int64_t n, void (*work)(void*, int64_t), void* context) {
  try {
    own_team(torch::stable::get_num_threads()).run(n, work, context);
  } catch (const std::bad_alloc&) {
    throw std::runtime_error(no_memory);
  }
}

inline const Parallel on_own_threads{&on_team};

// For torch's products, which share themselves out unless they are called by torch's own threads.
inline void on_torch_threads(int64_t n, void (*work)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::string text;  // of the first that fails
  const auto fail = [&](const char* what) {
    if (!failed.exchange(true)) text = what;
  };
  torch::stable::parallel_for(0, std::min<int64_t>(n, torch::stable::get_num_threads()), 1, [&](int64_t, int64_t) {
    try {
      for (int64_t i; !failed && (i = next++) < n;) work(context, i);
    } catch (const std::bad_alloc&) {  // no exception may leave a parallel region
      fail(no_memory);
    } catch (const std::exception& error) {
      fail(error.what());
    }
  });
  if (failed) throw std::runtime_error(text);
}

// torch's matrix product on operands packed as one panel [k][rows].
template <typename T>
void torch_multiply(const Operand<T>& a, int64_t row, int64_t rows, int64_t from, int64_t k, const T* b,
                    int64_t b_stride, int64_t groups, int64_t, bool accumulate, T* c, int64_t c_stride) {
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  thread_local std::vector<T> sum;
  sum.resize(rows * lanes);
  for (int64_t g = 0; g < groups; ++g) {
    T* out = c + g * c_stride;
    multiply_out(view_of(a.data + from * a.height + row, rows, k, int64_t(1), a.height, cpu),
                 view_of(b + g * b_stride, k, lanes, lanes, int64_t(1), cpu),
                 view_of(accumulate ? sum.data() : out, rows, lanes, lanes, int64_t(1), cpu));
    for (int64_t i = 0; accumulate && i < rows * lanes; ++i) out[i] += sum[i];
  }
}

// The ops on the CPU.
struct Cpu : Place {
  // `result`: what an op writes; everything else must lie where it does.
  // `panel_height`: operand_height for the extension's own products, 0 for torch's.
  explicit Cpu(const Tensor&, int64_t panel_height = 0) : Place{true, 0, panel_height, ""} {
    check(height == 0 || height == cpu::operand_height, "model_sizes: height must be 0 or the product kernel's");
    if (!height)
      against_narrow = "bfloat16 needs the extension's own products";
    else if (!cpu::own_products<float>().narrow)
      against_narrow = "this processor has no products in bfloat16";
  }

  template <typename T>
  void influence_block(const Model<T>& m, const Tests<T>& t, const int64_t* triples, int64_t B, T rate,
                       T* scores) const {
    tracin::influence_block<T>(m, t, triples, B, rate, scores, products<T>(), parallel());
  }
  template <typename T>
  void self_influence_block(const Model<T>& m, const Tracked<T>& on, const int64_t* triples, int64_t B, T rate,
                            T* scores) const {
    tracin::self_influence_block<T>(m, on, triples, B, rate, scores, products<T>(), parallel());
  }
  template <typename T>
  void relation_tables(const Model<T>& m, T* u, T* v, T* jacobians) const {
    tracin::relation_tables<T>(m, u, v, jacobians, products<T>(), parallel());
  }
  template <typename T>
  void relation_pixels(const Model<T>& m, const T* relation_fc, T* pixels) const {
    tracin::relation_pixels<T>(m, relation_fc, pixels, parallel());
  }
  template <typename T>
  void factor_block(const Model<T>& m, const Tracked<T>& on, const Form<T>& form, int64_t first, int64_t B,
                    const Factors<T>& to) const {
    tracin::factor_block<T>(m, on, form, first, B, to, products<T>(), parallel());
  }
  template <typename T>
  void norm_block(const Model<T>& m, const Tracked<T>& on, const Form<T>& form, const double* basis,
                  const int64_t* triples, int64_t B, const Norms<T>& to) const {
    tracin::norm_block<T>(m, on, form, basis, triples, B, to, products<T>(), parallel());
  }
  template <typename T>
  void merge_top_k(const T* scores, const int64_t* index, int64_t Q, int64_t B, int64_t k, Order order, T* best,
                   int64_t* best_index) const {
    tracin::merge_top_k<T>(scores, index, Q, B, k, order, best, best_index, on_own_threads);
  }

 private:
  Parallel parallel() const { return {height ? &on_team : &on_torch_threads}; }
  template <typename T>
  Products<T> products() const {
    return height ? cpu::own_products<T>() : Products<T>{0, &torch_multiply<T>};
  }
};

}  // namespace tracin
