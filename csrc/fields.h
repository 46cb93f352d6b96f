// The lists that an op gets from Python, read in order: each tensor and number is named once, beside its shape.
#pragma once
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "torch_products.h"

namespace tracin {

using Tensors = std::vector<Tensor>;
using Integers = std::vector<int64_t>;

inline void check(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

// The largest size that a tensor or a number may bring: so that the kernels' 32-bit indices reach everything, and no
// product of two sizes overflows.
constexpr int64_t largest_size = INT32_MAX;

// A product of sizes, which may be more than two.
inline int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes)
    check(!__builtin_mul_overflow(result, size, &result), "sizes: the product of several exceeds 2^63 - 1");
  return result;
}

// A size of a tensor: one that is known, or a variable that is to become it.
class Size {
 public:
  Size(int64_t known) : known_(known) {}
  Size(int64_t* unknown) : unknown_(unknown) {}
  bool known() const { return !unknown_; }
  bool take(int64_t size) const {
    if (unknown_) *unknown_ = size;
    return unknown_ || size == known_;
  }

 private:
  int64_t known_ = 0;
  int64_t* unknown_ = nullptr;
};
using Shape = std::initializer_list<Size>;

// Where an op's result lies, and how operands are packed there.
struct Place {
  bool host;
  int32_t gpu;                 // index among GPUs
  int64_t height;              // rows of a packed panel, 0: one panel of all
  std::string against_narrow;  // why there are no products in bfloat16; empty: there are

  bool holds(const Tensor& x) const { return x.is_cpu() == host && (host || x.get_device_index() == gpu); }
};

// Data of a contiguous tensor of a type and shape, which must lie where the op's result does. T is const where the op
// only reads.
template <typename T>
T* data(const std::string& name, const Tensor& x, const Place& place, Shape shape) {
  check(x.scalar_type() == scalar<std::remove_const_t<T>>, name + " has the wrong dtype");
  check(place.holds(x) || x.numel() == 0,
        name + ": tensors lie on different devices; all but `triples` must be where the result is");
  check(x.is_contiguous(), name + " is not contiguous");
  bool fits = x.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  for (const Size& size : shape) {
    if (!fits) break;
    const int64_t found = x.size(axis++);
    check(size.known() || found <= largest_size, name + " has an axis of more than 2^31 - 1");
    fits = size.take(found);
  }
  check(fits, name + " has the wrong shape");
  if constexpr (std::is_const_v<T>)
    return static_cast<T*>(x.const_data_ptr());
  else
    return static_cast<T*>(x.mutable_data_ptr());
}

// The same, or null for a tensor without elements.
template <typename T>
T* optional(const std::string& name, const Tensor& x, const Place& place, Shape shape) {
  return x.numel() ? data<T>(name, x, place, shape) : nullptr;
}

// A cursor over a list of tensors.
class Fields {
 public:
  Fields(const char* list, const Tensors& tensors, const Place& place)
      : list_(list), tensors_(tensors), place_(place) {}

  template <typename T>
  const T* take(const std::string& name, Shape shape) {
    return data<const T>(name, next(), place_, shape);
  }
  template <typename T>
  const T* take_optional(const std::string& name, Shape shape) {
    return optional<const T>(name, next(), place_, shape);
  }
  // An operand of T once more in bfloat16, or null: as the CPU's product packs it, on CUDA as in T.
  template <typename T>
  const uint16_t* take_narrow(const std::string& name, int64_t size, int64_t size_in_T) {
    const uint16_t* narrow = take_optional<uint16_t>(name, {place_.host ? size : size_in_T});
    check(!narrow || std::is_same_v<T, float>, name + ": bfloat16 needs float32");
    check(!narrow || place_.against_narrow.empty(), name + ": " + place_.against_narrow);
    return narrow;
  }
  void end() const { check(at_ == tensors_.size(), count()); }

 private:
  const Tensor& next() {
    check(at_ < tensors_.size(), count());
    return tensors_[at_++];
  }
  std::string count() const {
    return std::string(list_) + ": wrong number of tensors (" + std::to_string(tensors_.size()) + ")";
  }

  const char* list_;
  const Tensors& tensors_;
  const Place& place_;
  std::size_t at_ = 0;
};

// A cursor over a list of numbers.
class Numbers {
 public:
  Numbers(const char* list, const Integers& numbers) : list_(list), numbers_(numbers) {}

  int64_t take(const char* name, int64_t least, int64_t most = largest_size) {
    check(at_ < numbers_.size(), count());
    const int64_t value = numbers_[at_++];
    const auto is = [&] { return std::string(list_) + ": " + name + " is " + std::to_string(value) + ", must be "; };
    if (value < least) check(false, is() + "at least " + std::to_string(least));
    if (value > most) check(false, is() + "at most " + std::to_string(most));
    return value;
  }
  bool flag(const char* name) { return take(name, 0, 1) != 0; }
  void end() const { check(at_ == numbers_.size(), count()); }

 private:
  std::string count() const {
    return std::string(list_) + ": wrong number of integers (" + std::to_string(numbers_.size()) + ")";
  }

  const char* list_;
  const Integers& numbers_;
  std::size_t at_ = 0;
};

}  // namespace tracin
