"""Side streams with record_stream and events; a prefetcher; an external stream."""

import torch
from sampled import sample

cuda = torch.cuda
streams = [cuda.Stream(priority=-1), *(cuda.Stream() for _ in range(3))]
events = [cuda.Event() for _ in streams]
kept = []
for turn in range(12):
    for stream, event in zip(streams, events):
        with cuda.stream(stream):
            made = torch.empty(1 << 18, device="cuda")
            kept.append((made, made * 2))
            event.record()
    for event in events:
        cuda.current_stream().wait_event(event)
    for first, second in kept[-4:]:
        both = first + second
        first.record_stream(cuda.current_stream())
        second[100:200].record_stream(cuda.current_stream())
    if turn % 3 == 0:
        del made, first, second, both
        kept.clear()
    sample(turn)

loading = cuda.Stream()
following = None
for turn in range(6):
    cuda.current_stream().wait_stream(loading)
    current = following
    if current is not None:
        current.record_stream(cuda.current_stream())
        print(current.cpu()[0].item())
    with cuda.stream(loading):
        following = torch.full((1000, 1000), float(turn)).flatten().pin_memory().cuda(non_blocking=True)
    sample(turn)

with cuda.stream(cuda.ExternalStream(streams[0].cuda_stream)):
    outside = torch.zeros(1000, device="cuda")
outside.record_stream(cuda.current_stream())
del outside, current, following
kept.clear()
cuda.synchronize()
cuda.empty_cache()
sample("end")
print([stream.query() for stream in streams], [event.query() for event in events])
