"""MDR with DDP, as docs/distributed.md has it: two processes take the steps of one."""

import re
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from mdr_core import MDR, losses, normalize_by_mean_distance
from tests import processes  # noqa: F401 - the server that processes come from

DOCS = Path(__file__).resolve().parents[1] / "docs" / "distributed.md"
BATCH, STEPS = 16, 3
LABELS = torch.arange(BATCH) // 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))


def images() -> torch.Tensor:
    """Three batches whose two halves differ in scale."""
    scale = torch.linspace(0.5, 3, BATCH)[:, None]
    return scale * torch.randn(STEPS, BATCH, 12, generator=torch.Generator().manual_seed(1))


def metric_loss(embeddings, labels):
    return losses.make("contrastive")(embeddings, labels, torch.Generator())


def state(net: nn.Module, mdr: MDR) -> dict[str, torch.Tensor]:
    return dict(net.state_dict()) | dict(mdr.state_dict())


def work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    own = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    batches = [(x[own], LABELS[own]) for x in images()]
    names = {"net": network(), "batches": batches, "metric_loss": metric_loss}
    exec(compile(code, DOCS.name, "exec"), names)
    torch.save(state(names["net"], names["mdr"]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_take_the_steps_of_one(tmp_path):
    multiprocessing.start_processes(work, (tmp_path,), nprocs=2, start_method="forkserver")
    net, mdr = network(), MDR()
    optimizer = torch.optim.SGD([*net.parameters(), *mdr.parameters()], lr=0.1)
    for x in images():
        embeddings = normalize_by_mean_distance(net(x))
        optimizer.zero_grad()
        (metric_loss(embeddings, LABELS) + 0.6 * mdr(embeddings)).backward()
        optimizer.step()
    one = state(net, mdr)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, one, rtol=0, atol=1e-5)
    start = state(network(), MDR())
    assert all((one[name] - start[name]).abs().max() > 1e-3 for name in ("0.weight", "levels"))
