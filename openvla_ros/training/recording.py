"""Recording in several processes; each shard has its own seeds, so that a stop costs little."""

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from pathlib import Path

from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.core.worker_processes import worker_processes
from openvla_ros.model.local_backend import LocalBackend
from openvla_ros.policy.policy import Policy
from openvla_ros.safety.robot_profile import load_robot_profile
from openvla_ros.sim.tasks import KINDS, Kind
from openvla_ros.training.corrections import record_correction
from openvla_ros.training.demonstrations import Disturbance, record_episode, write_shard

EPISODES_PER_SHARD = 48
_STEPS = 45
# Reaching is learnt first; the others have more parts, and each wants to be seen.
_CORRECTED: tuple[Kind, ...] = ('pick', 'push', 'pick', 'push', 'reach')


def record_demonstrations(
    data: Path,
    shards: int,
    unnorm_key: str,
    size: int,
    workers: int,
    report: Callable[[str], None],
) -> None:
    """Record the shards ``expert_0000`` and on that are not there yet.

    Args:
        data: Folder of shards.
        shards: How many there shall be.
        unnorm_key: Whose conventions the actions are written in.
        size: Side of the images in pixels.
        workers: Processes.
        report: Called with a line of progress.
    """
    folders = [(data / f'expert_{i:04d}', i) for i in range(shards)]
    missing = [(folder, i, unnorm_key, size) for folder, i in folders if not folder.exists()]
    _in_processes(_record_demonstrations, missing, workers, report)


def record_corrections(
    data: Path,
    first: int,
    shards: int,
    checkpoint: Path,
    unnorm_key: str,
    workers: int,
    report: Callable[[str], None],
) -> None:
    """Record ``shards`` shards ``policy_<n>`` from number ``first`` on, driven by a checkpoint."""
    folders = [(data / f'policy_{i:04d}', i) for i in range(first, first + shards)]
    missing = [(folder, i, checkpoint, unnorm_key) for folder, i in folders if not folder.exists()]
    _in_processes(_record_corrections, missing, workers, report)


def _record_demonstrations(folder: Path, shard: int, unnorm_key: str, size: int) -> str:
    profile = load_dataset_profile(unnorm_key)
    episodes = [
        record_episode(
            KINDS[n % len(KINDS)],
            n // len(KINDS),
            profile,
            size,
            max_steps=_STEPS,
            every=3,
            disturbance=Disturbance(),
        )
        for n in range(shard * EPISODES_PER_SHARD, (shard + 1) * EPISODES_PER_SHARD)
    ]
    write_shard(folder, episodes)
    return f'{folder.name}: {sum(map(len, episodes))} images of {len(episodes)} demonstrations'


def _record_corrections(folder: Path, shard: int, checkpoint: Path, unnorm_key: str) -> str:
    backend = LocalBackend.load(checkpoint, unnorm_key)
    policy = Policy(backend, load_dataset_profile(unnorm_key))
    robot = load_robot_profile('sim')
    episodes = [
        record_correction(_CORRECTED[n % len(_CORRECTED)], n, policy, robot)
        for n in range(shard * EPISODES_PER_SHARD, (shard + 1) * EPISODES_PER_SHARD)
    ]
    write_shard(folder, episodes)
    return f'{folder.name}: {sum(map(len, episodes))} images of {len(episodes)} corrected episodes'


def _in_processes(
    work: Callable[..., str],
    jobs: Sequence[tuple[object, ...]],
    workers: int,
    report: Callable[[str], None],
) -> None:
    with worker_processes(workers, _one_thread) as pool:
        for done, job in enumerate(as_completed([pool.submit(work, *job) for job in jobs]), 1):
            report(f'{done}/{len(jobs)} {job.result()}')


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
