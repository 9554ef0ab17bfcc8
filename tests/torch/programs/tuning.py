"""Fine-tuning: adapters, micro-batches, checkpoints, an average, fused gradients, transforms."""

import copy

import torch
import torch.nn.functional as F
from sampled import sample
from torch import nn
from torch.utils.checkpoint import checkpoint


class Adapted(nn.Module):
    def __init__(self, base, rank=8):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = (
            nn.Linear(base.in_features, rank, bias=False),
            nn.Linear(rank, base.out_features, bias=False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x)) * 0.5


def network(adapted):
    make = (lambda n, m: Adapted(nn.Linear(n, m))) if adapted else nn.Linear
    return nn.Sequential(*(nn.Sequential(make(256, 512), nn.SiLU(), make(512, 256)) for _ in range(4))).cuda()


# Adapters under bfloat16 autocast, micro-batches of uneven lengths, reentrant checkpoints.
model = network(adapted=True)
trained = [weight for weight in model.parameters() if weight.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, amsgrad=True)
average = copy.deepcopy(model)
sample("adapters")
for turn in range(4):
    for micro in range(3):
        x = torch.randn(4, 17 + 13 * turn + micro, 256).cuda().requires_grad_()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            for block in model:
                x = checkpoint(block, x, use_reentrant=micro % 2 == 0)
            loss = F.mse_loss(x.float(), torch.zeros_like(x, dtype=torch.float)) / 3
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        torch._foreach_mul_(list(average.parameters()), 0.99)
        torch._foreach_add_(list(average.parameters()), list(model.parameters()), alpha=0.01)
    sample(f"adapters {turn}")
for block in model:
    for name, part in list(block.named_children()):
        if isinstance(part, Adapted):
            part.base.weight.data += part.up.weight @ part.down.weight * 0.5
            setattr(block, name, part.base)
del trained, optimizer, average, x, loss, part
sample("merged")
del model

# Gradients that are consumed immediately, saved tensors in host memory, parametrised weights.
model = network(adapted=False)
steps = {weight: torch.optim.SGD([weight], lr=0.1, momentum=0.9) for weight in model.parameters()}


def use_up(weight):
    steps[weight].step()
    weight.grad = None


for weight in model.parameters():
    weight.register_post_accumulate_grad_hook(use_up)
for turn in range(3):
    with torch.autograd.graph.save_on_cpu(pin_memory=turn == 1):
        loss = model(torch.zeros(64, 256, device="cuda")).sum()
        sample(f"saved {turn}")
    loss.backward()
    sample(f"used up {turn}")
model = steps = weight = loss = None

# Functional transforms, second derivatives, and tensors without memory.
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)).cuda()
weights = {name: weight.detach() for name, weight in model.named_parameters()}
given = torch.randn(10, 64).cuda()
single = torch.func.grad(lambda w, x: torch.func.functional_call(model, w, (x,)).sum())
each = torch.func.vmap(single, in_dims=(None, 0))(weights, given)
sample("a gradient for each")
given.requires_grad_()
(first,) = torch.autograd.grad(model(given).sum(), given, create_graph=True)
first.square().sum().backward()
sample("second derivatives")
with torch.device("meta"):
    nn.Linear(1 << 14, 1 << 14)
torch.empty(0, device="cuda").resize_(1000).resize_(10)
torch.zeros(1, device="cuda").expand(1 << 20).sum()
sample("no memory")
each = given = first = model = weights = None
torch.cuda.empty_cache()
sample("end")
