"""giant-kitten by PyTorch's own interface, in ten lines, for programs that want no more of it."""

import torch
from giant_kitten import library_path

memory = torch.cuda.memory
memory.change_current_allocator(memory.CUDAPluggableAllocator(str(library_path()), "gk_torch_malloc", "gk_free"))
tensor = torch.arange(10).to("cuda")
print(torch.cuda.get_allocator_backend(), tensor.cpu().tolist())
