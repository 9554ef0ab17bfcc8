"""A page about a real card: what no document says, asked of the card itself.

`python -m giant_kitten._card PAGE` writes it. It needs this package and a PyTorch with CUDA, and
fills the card for some seconds.
"""
