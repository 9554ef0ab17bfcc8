"""Offloading of weights: by hooks, as a whole, a layer ahead on a side stream; files, types."""

import os
import tempfile

import torch
from sampled import sample
from torch import nn

cuda = torch.cuda
layers = nn.Sequential(*(nn.Sequential(nn.Linear(512, 512), nn.GELU()) for _ in range(8))).half()
given = torch.zeros(16, 512, dtype=torch.half)

# One module at a time on the card, by hooks, like accelerate.
handles = []
for layer in layers:
    handles.append(layer.register_forward_pre_hook(lambda module, args: (module.to("cuda"), args)[1]))
    handles.append(layer.register_forward_hook(lambda module, args, out: (module.to("cpu"), out)[1]))
for turn in range(3):
    with torch.no_grad():
        layers(given.cuda())
    sample(f"sequential {turn}")
for handle in handles:
    handle.remove()

# The whole model on the card for its turn, and otherwise on the host, always in the same storage.
known = {name: weight.clone() for name, weight in layers.state_dict().items()}
for turn in range(3):
    layers.to("cuda")
    with torch.no_grad():
        layers(given.cuda())
    sample(f"whole {turn}")
    layers.to("cpu")
    cuda.empty_cache()
    sample(f"whole {turn} gone")
print(all(torch.equal(weight, known[name]) for name, weight in layers.state_dict().items()))

# The weights of the next layer are copied on a side stream while this one works.
pinned = [[weight.data.pin_memory() for weight in layer.parameters()] for layer in layers]
loading, computing = cuda.Stream(), cuda.current_stream()


def load(number):
    with cuda.stream(loading):
        return [weight.to("cuda", non_blocking=True) for weight in pinned[number]], loading.record_event()


for turn in range(3):
    x = given.cuda()
    following = load(0)
    for number in range(len(pinned)):
        (weight, bias), ready = following
        if number + 1 < len(pinned):
            following = load(number + 1)
        computing.wait_event(ready)
        x = nn.functional.gelu(nn.functional.linear(x, weight, bias))
        for used in (weight, bias):
            used.record_stream(computing)
    print(torch.equal(weight.cpu(), pinned[-1][0]))
    del weight, bias, used, following, x
    cuda.synchronize()
    sample(f"ahead {turn}")

# Files: mapped, loaded directly to the card, and saved from it.
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "weights")
    torch.save(known, path)
    for options in ({}, {"mmap": True}):
        loaded = torch.load(path, map_location="cuda", **options)
        print(all(torch.equal(weight.cpu(), known[name]) for name, weight in loaded.items()))
        sample(f"loaded {options}")
        torch.save(loaded, path)
        del loaded
    try:
        from safetensors.torch import load_file, save_file
    except ImportError:
        load_file = save_file = None
    if load_file:
        save_file({name: weight.cuda() for name, weight in known.items()}, path + ".safetensors")
        loaded = load_file(path + ".safetensors", device="cuda")
        print(all(torch.equal(weight.cpu(), known[name]) for name, weight in loaded.items()))
        sample("safetensors")
        del loaded

# A model that is created on the meta device and gets its weights one by one.
with torch.device("meta"):
    empty = nn.Sequential(*(nn.Sequential(nn.Linear(512, 512), nn.GELU()) for _ in range(8))).half()
empty.load_state_dict({name: weight.cuda() for name, weight in known.items()}, assign=True)
sample("assigned")
empty.float().bfloat16()
sample("other types")
shared = nn.utils.parameters_to_vector(empty.parameters())
sample("one vector")
del empty, shared
cuda.empty_cache()
cuda.ipc_collect()
sample("end")
