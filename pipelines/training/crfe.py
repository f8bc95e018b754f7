"""The segmenter of [CRFE] as a torch module: a U-Net with a bidirectional LSTM and position attention at its bottom."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class PositionAttention(nn.Module):  # type: ignore[misc]
    """Position attention of DANet (Fu et al. 2019, section 3.2): every pixel looks at every other; starts as identity."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2).transpose(1, 2)
        weights = torch.softmax(query @ self.key(x).flatten(2), dim=-1)  # row j: how much pixel j takes from each pixel
        seen = self.value(x).flatten(2) @ weights.transpose(1, 2)
        return self.gamma * seen.reshape(x.shape) + x


class Scan(nn.Module):  # type: ignore[misc]
    """Bidirectional LSTM over a feature map: along rows, along rows and then columns, or along the raster of all pixels."""

    def __init__(self, channels: int, units: int, order: Literal["rows", "rows_columns", "raster"]) -> None:
        super().__init__()
        self.order = order
        self.along_rows = nn.LSTM(channels, units // 2, batch_first=True, bidirectional=True)
        if order == "rows_columns":
            self.along_columns = nn.LSTM(units, units // 2, batch_first=True, bidirectional=True)
        self.back = nn.Conv2d(units, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)
        if self.order == "raster":
            out = self.along_rows(pixels.reshape(n, height * width, channels))[0]
        else:
            out = self.along_rows(pixels.reshape(n * height, width, channels))[0]
        out = out.reshape(n, height, width, -1)
        if self.order == "rows_columns":
            columns = out.transpose(1, 2).reshape(n * width, height, -1)
            out = self.along_columns(columns)[0].reshape(n, width, height, -1).transpose(1, 2)
        return self.back(out.permute(0, 3, 1, 2))


class Crfe(nn.Module):  # type: ignore[misc]
    """The segmenter of [CRFE]: convolutions and pooling, bidirectional LSTM, position attention, U-Net-like decoder.

    Where the paper is silent or ambiguous the choice is a parameter; the defaults are those of docs/systems.md.

    Parameters
    ----------
    widths : channels of the three convolution blocks.
    units : LSTM units of both directions together.
    order : what the LSTM runs along; rows then columns give every pixel the context of the whole slice.
    pools : 2 or 3; two fit the two decoder convolutions, three make the attention 16 times smaller.
    reduction : divides the channels of the attention's queries and keys; the text says 1, the reference implementation 8.
    skip : join encoder maps in the decoder.
    upsampling : how the decoder enlarges.
    batch_norm : normalise after each convolution.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 64, 128),
        *,
        units: int = 256,
        order: Literal["rows", "rows_columns", "raster"] = "rows_columns",
        pools: Literal[2, 3] = 2,
        reduction: int = 8,
        skip: bool = True,
        upsampling: Literal["nearest", "bilinear"] = "nearest",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.pools, self.skip, self.upsampling = pools, skip, upsampling
        self.encode1 = _convolve(1, fine, batch_norm)
        self.encode2 = _convolve(fine, middle, batch_norm)
        self.encode3 = _convolve(middle, coarse, batch_norm)
        self.scan = Scan(coarse, units, order)
        self.attend = PositionAttention(coarse, reduction)
        self.decode2 = _convolve(coarse + (middle if skip else 0), middle, batch_norm)
        self.decode1 = _convolve(middle + (fine if skip else 0), fine, batch_norm)
        self.out = nn.Conv2d(fine, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n, 1, y, x) of slices (n, 1, y, x); the sides must divide by 2 to the power of ``pools``."""
        fine = self.encode1(image)
        middle = self.encode2(functional.max_pool2d(fine, 2))
        coarse = self.encode3(functional.max_pool2d(middle, 2))
        x = functional.max_pool2d(coarse, 2) if self.pools == 3 else coarse
        x = self.attend(self.scan(x))
        if self.pools == 3:
            x = self._enlarge(x) + coarse
        x = self.decode2(self._join(x, middle))
        return self.out(self.decode1(self._join(x, fine)))

    def _join(self, x: Tensor, encoded: Tensor) -> Tensor:
        enlarged = self._enlarge(x)
        return torch.cat([enlarged, encoded], dim=1) if self.skip else enlarged

    def _enlarge(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode=self.upsampling)


def _convolve(inputs: int, outputs: int, batch_norm: bool) -> nn.Module:
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU())
