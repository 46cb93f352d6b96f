// A Device whose memory is the host's: every array is a heap buffer of exactly its size, filled with 0xFF (NaN), and
// products follow their definition.
#pragma once
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cuda/device.h"

class HostDevice : public tracin::cuda::Device {
 public:
  template <typename T>
  using Operand = tracin::cuda::Matrix<const T>;
  template <typename T>
  using Result = tracin::cuda::Matrix<T>;

  void* stream() override { return nullptr; }
  void* allocate(int64_t bytes) override {
    arrays_.emplace_back(new unsigned char[bytes]);
    return std::memset(arrays_.back().get(), 0xFF, bytes);
  }
  const int32_t* upload(const int32_t* numbers, int64_t n) override {
    return static_cast<const int32_t*>(std::memcpy(allocate(n * 4), numbers, n * 4));
  }
  void multiply(const Operand<float>& a, const Operand<float>& b, const Result<float>& c) override { plain(a, b, c); }
  void multiply(const Operand<double>& a, const Operand<double>& b, const Result<double>& c) override {
    plain(a, b, c);
  }
  void multiply(const Operand<uint16_t>& a, const Operand<uint16_t>& b, const Result<float>& c) override {
    plain(a, b, c);
  }

 private:
  static double value(float x) { return x; }
  static double value(double x) { return x; }
  static double value(uint16_t bfloat16) {
    const uint32_t bits = uint32_t(bfloat16) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

  template <typename From, typename To>
  static void plain(const Operand<From>& a, const Operand<From>& b, const Result<To>& c) {
    if (a.columns != b.rows || a.rows != c.rows || b.columns != c.columns)
      throw std::logic_error("shapes of a product");
    for (int64_t i = 0; i < c.rows; ++i)
      for (int64_t j = 0; j < c.columns; ++j) {
        double sum = 0;
        for (int64_t l = 0; l < a.columns; ++l)
          sum += value(a.data[i * a.row_stride + l * a.column_stride]) *
                 value(b.data[l * b.row_stride + j * b.column_stride]);
        c.data[i * c.row_stride + j * c.column_stride] = static_cast<To>(sum);
      }
  }

  std::vector<std::unique_ptr<unsigned char[]>> arrays_;
};
