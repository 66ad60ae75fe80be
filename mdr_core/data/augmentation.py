"""Crop a batch on the device. Resampling is separable: out = R_y @ image @ R_x^T.

Row o of R holds the weights of PIL's Lanczos-3 filter on the input pixels for output pixel o.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = (0.16, 1.0)  # of the crop's area to the image's
RATIO = (0.75, 1.33)  # of the crop's width to its height
TRIES = 10  # boxes drawn for each image


def resample_matrix(
    start: Tensor, length: Tensor, low: Tensor, high: Tensor, inputs: int, outputs: int
) -> Tensor:
    """Return the matrix R, (B, outputs, inputs), that resamples [start, start + length) of a line.

    All four are (B,), in pixels; those from ``low`` to ``high`` may contribute.
    """
    start, low, high = (bound[:, None, None] for bound in (start, low, high))
    scale = (length / outputs)[:, None, None]
    center = start + (torch.arange(outputs, device=start.device)[:, None] + 0.5) * scale
    reach = math.ceil(3 * max(inputs / outputs, 1.0))  # of the widest filter, in pixels
    pixel = center.floor() + torch.arange(-reach, reach + 1, device=start.device)
    x = (pixel + 0.5 - center) / scale.clamp(min=1.0)
    lanczos = torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)
    weight = lanczos * ((pixel >= low) & (pixel < high))
    weight = weight / weight.sum(dim=2, keepdim=True)
    dense = torch.zeros(len(start), outputs, inputs, device=start.device)
    return dense.scatter_add_(2, pixel.long().clamp(0, inputs - 1), weight)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (B, 3, h, w), 0..255, of images (B, 3, H, W) by matrices (B, h, H) and (B, w, W)."""
    out = rows[:, None] @ images.to(rows.dtype).contiguous() @ columns.transpose(1, 2)[:, None]
    return out.clamp_(0, 255)


def random_boxes(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return top, left, height, width, each (count,), as torchvision's RandomResizedCrop."""
    empty = torch.empty(count, TRIES, device=generator.device)
    area = side**2 * empty.uniform_(*SCALE, generator=generator)
    low, high = map(math.log, RATIO)
    ratio = torch.empty_like(empty).uniform_(low, high, generator=generator).exp()
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= side) & (height > 0) & (height <= side)
    first = fits.to(torch.uint8).argmax(dim=1).expand(2, 1, count).transpose(1, 2)
    drawn = torch.stack([height, width]).gather(2, first)[:, :, 0]
    lengths = torch.where(fits.any(dim=1), drawn, float(side))  # of each image: (2, count)
    place = torch.rand(2, count, generator=generator, device=generator.device)
    return (*(place * (side - lengths + 1)).floor(), *lengths)


def random_resized_crop(
    images: Tensor, size: int, generator: torch.Generator, flip: bool = True
) -> Tensor:
    """Return a random box of each image (3, S, S) as a crop (3, size, size), float32, 0..255."""
    count, side = len(images), images.shape[-1]
    top, left, height, width = random_boxes(count, side, generator)
    mirrored = torch.rand(count, generator=generator, device=generator.device) < 0.5
    vertical = resample_matrix(top, height, top, top + height, side, size)
    horizontal = resample_matrix(left, width, left, left + width, side, size)
    if flip:
        horizontal = torch.where(mirrored[:, None, None], horizontal.flip(1), horizontal)
    return resample(images, vertical, horizontal)


def random_affine(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Shift, turn, shear and scale images (B, 3, S, S), float32, at random on white paper.

    ``strength``: the standard deviation of the affine map's six numbers, in half sides.
    """
    change = torch.randn(len(images), 2, 3, generator=generator, device=images.device)
    affine = torch.eye(2, 3, device=images.device) + strength * change
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return 255 - F.grid_sample(255 - images.float(), grid, align_corners=False)


def center_crop(images: Tensor, resize: int, size: int) -> Tensor:
    """Return the middle (size, size) of images resized to ``resize``: uint8, channels last."""
    side, one = images.shape[-1], torch.ones(1, device=images.device)
    start, length = one * (resize - size) / 2 * side / resize, one * size * side / resize
    matrix = resample_matrix(start, length, 0 * one, side * one, side, size)
    crops = resample(images, matrix, matrix).round().to(torch.uint8)
    return crops.contiguous(memory_format=torch.channels_last)
