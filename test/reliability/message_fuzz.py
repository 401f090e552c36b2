"""Fuzzed messages over DDS: both nodes stay alive, small and harmless, whatever arrives."""

import time
from dataclasses import dataclass
from pathlib import Path

from harness.limits import ACTIVE, HOLD
from harness.world import World
from reliability.policy import start_policy
from reliability.robot import controller_argv, limits_of, write_profile

BATCH = 1000
SHARES = {'actions': 0.6, 'poses': 0.2, 'images': 0.1, 'instructions': 0.1}
RSS_LIMIT_MB = 20.0


@dataclass(frozen=True)
class FuzzResult:
    """What a fuzz run found."""

    sent: dict[str, int]
    seconds: float
    growth_mb: dict[str, float]
    callback_errors: int
    commands: int
    met_armed: int

    @property
    def total(self) -> int:
        """Messages sent."""
        return sum(self.sent.values())


def fuzz_messages(folder: Path, count: int) -> FuzzResult:
    """Send ``count`` messages, in batches into an armed and moving arm; raises what it finds."""
    profile = write_profile(folder)
    start_s = time.monotonic()
    with World(folder, limits_of(profile), deadline_s=60.0 + count / 50.0) as world:
        world.start_controller(controller_argv(profile))
        world.start_robot()
        world.start_operator()
        world.start_policy('--step-s', '0.2')
        world.recover()
        fuzz_controller(world, {'actions': 50, 'poses': 50}, seed=99)
        rss_mb = world.controller.rss_mb()
        wanted = {kind: round(SHARES[kind] * count) for kind in ('actions', 'poses')}
        sent, armed = fuzz_controller(world, wanted, seed=0)
        growth = {'controller': world.controller.rss_mb() - rss_mb}
        restart_policy(world)
        errors = [float(d['callback_errors']) for d in world.diagnostics('clamp')]
        assert world.controller.returncode is None
        assert 'Traceback' not in world.controller.log_text()
        report = world.check()
        report.require_clean()
        for name in ('policy', 'robot'):
            world.processes.end(name)
        sent |= fuzz_policy(world, count, growth)
    assert max(growth.values()) < RSS_LIMIT_MB, growth
    assert max(errors, default=0.0) == 0.0, 'a callback raised'
    return FuzzResult(
        sent, time.monotonic() - start_s, growth, int(max(errors)), report.samples, armed
    )


def fuzz_controller(world: World, wanted: dict[str, int], seed: int) -> tuple[dict[str, int], int]:
    """Actions and poses into the controller; answers how many, and how often it was armed."""
    sent, armed = {'actions': 0, 'poses': 0}, 0
    while any(sent[kind] < wanted[kind] for kind in sent):
        seed += 1
        restart_policy(world)
        armed += world.status()['state'] in (ACTIVE, HOLD)
        since_s = time.monotonic()
        actions = min(BATCH, wanted['actions'] - sent['actions'])
        poses = min(BATCH // 3, wanted['poses'] - sent['poses'])
        # The first few slowly enough to be judged one by one, the rest as fast as they come.
        slow = min(15, actions)
        world.policy.call('fuzz', count=slow, seed=-seed, pause_s=0.025, deadline_s=30.0)
        sent['poses'] += world.robot.call('fuzz_poses', count=poses, seed=seed, deadline_s=60.0)
        sent['actions'] += slow + world.policy.call(
            'fuzz', count=actions - slow, seed=seed, deadline_s=120.0
        )
        world.exempt_window('accel', since_s=since_s, until_s=time.monotonic() + 0.3)
        time.sleep(1.2)  # the flood and the jumping pose have to be gone before a reset
    return sent, armed


def restart_policy(world: World) -> None:
    """Start the policy again and move.

    Some fuzzed actions are good but for a sequence number of 2**63, behind which this policy's own
    numbers are old: an operator would start it again.
    """
    world.start_policy()
    world.recover()


def fuzz_policy(world: World, count: int, growth: dict[str, float]) -> dict[str, int]:
    """Images and instructions into the real policy node; answers how many."""
    world.start_robot('--record-actions', '--pose-hz', '50')
    start_policy(world)
    world.start_camera('--rate-hz', '10', '--width', '64', '--height', '48')
    world.wait_until(lambda: world.diagnostics('policy'), 'diagnostics of the policy', 30.0)
    world.wait_until(
        lambda: world.operator.call('instruction_readers'), 'the policy hears instructions', 30.0
    )
    _until_it_acts(world, 'before')
    world.camera.call('fuzz', count=200, seed=99)
    rss_mb = world.policy.rss_mb()
    sent = {
        'images': world.camera.call(
            'fuzz', count=round(SHARES['images'] * count), seed=1, deadline_s=600.0
        ),
        'instructions': world.operator.call(
            'fuzz_instructions',
            count=round(SHARES['instructions'] * count),
            seed=1,
            deadline_s=600.0,
        ),
    }
    growth['policy'] = world.policy.rss_mb() - rss_mb
    _until_it_acts(world, 'after')
    assert world.policy.returncode is None
    assert 'Traceback' not in world.policy.log_text()
    return sent


def _until_it_acts(world: World, when: str) -> None:
    since_s = time.monotonic()
    world.operator.call('instruct', text='pick up the cube')
    world.wait_until(
        lambda: len(world.run().actions) and world.run().actions['t_s'][-1] > since_s,
        f'an action {when} the fuzz',
        20.0,
    )
