"""The functions of `torch.accelerator` about memory, compared with those of `torch.cuda`."""

import torch
from sampled import sample

accelerator = torch.accelerator if hasattr(getattr(torch, "accelerator", None), "memory_stats") else None
if accelerator:
    accelerator.empty_cache()
    accelerator.reset_peak_memory_stats()
    print(accelerator.memory_stats(), accelerator.memory_allocated(), accelerator.max_memory_reserved())
    layer = torch.nn.Linear(512, 512, device=accelerator.current_accelerator())
    for _ in range(3):
        layer(torch.zeros(64, 512, device=layer.weight.device)).sum().backward()
    sample("worked")
    stats = accelerator.memory_stats()
    # Only `torch.cuda` has the last one.
    print(sorted({name.partition(".")[0] for name in stats} - {"giant_kitten", "num_oom_rejections"}))
    print(accelerator.memory_allocated(0), accelerator.max_memory_allocated("cuda:0"))
    print(accelerator.memory_reserved() == torch.cuda.memory_reserved() > 0, all(accelerator.get_memory_info()))
    del layer
    accelerator.empty_cache()
    accelerator.reset_peak_memory_stats()
    accelerator.reset_accumulated_memory_stats()
    accelerator.synchronize()
    sample("emptied")
    print(accelerator.memory_reserved() == torch.cuda.memory_reserved())
