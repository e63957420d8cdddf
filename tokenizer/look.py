"""A look: the encoder sees what is painted so far, before it writes the next latents.

What is special: a late code refines what many layers have made of the codes before it, which an encoder that never
sees the painting can only guess. So here inference goes the way that painting goes, as in ladder VAEs (Sønderby et
al. 2016, arXiv:1602.02282; Child 2020, arXiv:2011.10650).
"""

from torch import Tensor, nn

from svq.tokenizer.layers import MLP, attend


class Look(nn.Module):
    """The queries of the next latents attend to all places, in each of which picture and painting are compared."""

    def __init__(self, width: int, decoder_width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.painting_norm = nn.LayerNorm(decoder_width)
        self.placeholder = nn.Linear(decoder_width, width)
        self.query_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.picture_kv = nn.Linear(width, 2 * width)
        self.painting_kv = nn.Linear(decoder_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, queries: Tensor, patches: Tensor, painting: Tensor) -> Tensor:
        """Tell the queries what is still missing.

        Args:
            queries: (B, g, D), the encoder's, of the g next latents.
            patches: (B, P, D), the encoder's, of the picture.
            painting: (B, g + P, D'), the decoder's, as far as it has come: the placeholders of the next latents, and
                the patches.
        """
        g = queries.shape[1]
        painting = self.painting_norm(painting)
        x = queries + self.placeholder(painting[:, :g])  # (B, g, D)
        k, v = (self.picture_kv(patches) + self.painting_kv(painting[:, g:])).chunk(2, dim=-1)  # 2 x (B, P, D)
        x = x + self.out(attend(self.query(self.query_norm(x)), k, v, self.heads))
        return x + self.mlp(self.mlp_norm(x))  # (B, g, D)
