"""Training: autocast, scaled gradients, AdamW, checkpointing, loader workers, pinned memory."""

import io

import torch
import torch.nn.functional as F
from sampled import sample
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width))

    def forward(self, x):
        normed = self.before(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.between(x))


class Model(nn.Module):
    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(1000, 128), nn.Linear(128, 1000)
        self.blocks = nn.ModuleList(Block(128) for _ in range(2))
        self.checkpointed = checkpointed

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(x)


def main() -> None:
    tokens = torch.randint(0, 1000, (48, 32))
    loader = DataLoader(TensorDataset(tokens, tokens), batch_size=16, pin_memory=True, num_workers=2)
    forms = ({"foreach": True}, {"fused": True}, {"foreach": False})
    for checkpointed, form in zip((False, True, True), forms, strict=True):
        model = Model(checkpointed).cuda().train()
        optimizer = torch.optim.AdamW(model.parameters(), **form)
        scaler = torch.cuda.amp.GradScaler()
        for turn, (given, wanted) in enumerate(loader):
            given, wanted = given.to("cuda", non_blocking=True), wanted.to("cuda", non_blocking=True)
            with torch.autocast("cuda", dtype=torch.float16):
                loss = F.cross_entropy(model(given).view(-1, 1000), wanted.view(-1))
            scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            # The scaler is not used for it: a kernel decides whether it steps, and kernels do
            # nothing here.
            optimizer.step()
            optimizer.zero_grad(set_to_none=turn % 2 == 0)
            sample(f"{form} {turn}")
        saved = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
        saved.seek(0)
        loaded = torch.load(saved, map_location="cuda")
        model.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])
        sample("loaded")
        del model, optimizer, scaler, loaded, loss, given, wanted
        torch.cuda.empty_cache()
        sample("gone")
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(8))).cuda()
    given = torch.zeros(64, 256, device="cuda", requires_grad=True)
    checkpoint_sequential(layers, 4, given, use_reentrant=False).sum().backward()
    sample("in segments")


if __name__ == "__main__":
    main()
