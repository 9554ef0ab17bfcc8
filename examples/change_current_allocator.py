"""giant-kitten through PyTorch's own interface, for programs that need no more than that."""

import torch
from giant_kitten import library_path

memory = torch.cuda.memory
memory.change_current_allocator(memory.CUDAPluggableAllocator(str(library_path()), "gk_torch_malloc", "gk_free"))
tensor = torch.arange(10).to("cuda")
print(torch.cuda.get_allocator_backend(), tensor.cpu().tolist())
