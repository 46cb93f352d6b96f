// In place of csrc/torch_device.h: the ops of torch on the emulated device, whose memory is the host's.
#pragma once
#include "emulated/host_device.h"

namespace tracin {

struct TorchDevice : HostDevice {
  explicit TorchDevice(int32_t) {}
};

}  // namespace tracin
