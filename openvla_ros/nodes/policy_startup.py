"""From parameters to a policy that may act: load, warm up, check statistics and rate."""

import contextlib
import math
import os
import statistics
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from openvla_ros.action_space.dataset_profile import (
    DatasetProfile,
    check_step_envelope,
    find_dataset_profile,
    list_dataset_profiles,
    load_dataset_profile,
    profile_of_policy,
)
from openvla_ros.action_space.normalization import UnnormKeyError, resolve_unnorm_key
from openvla_ros.core.status import Status
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.inference_worker import StartRefused
from openvla_ros.nodes.policy_parameters import OLDEST_OBSERVATION_S, PolicyParameters
from openvla_ros.policy.inference import BackendUnavailable, InferenceBackend
from openvla_ros.policy.policy import Policy
from openvla_ros.policy.rate_check import measure_durations_s, rate_kept_hz

LoadBackend = Callable[[PolicyParameters], InferenceBackend]
"""Makes the backend, in the worker's thread. ``policy_node.main`` takes another one for tests."""

Report = Callable[[Status], None]
_RETRY_S = 1.0
# Room for the age of the image and for a busy machine.
_WAIT_FACTOR = 1.5
_SWITCH_INTERVAL_S = 2e-4


def load_backend(parameters: PolicyParameters) -> InferenceBackend:
    """Make the backend the parameters ask for: in this process, or a server.

    Raises:
        ConfigError: neither or both are asked for, or the checkpoint cannot be used.
        ImportError: torch and its companions are not installed for this Python.
    """
    if bool(parameters.checkpoint) == bool(parameters.server_url):
        raise ConfigError(
            'checkpoint and server_url: expected exactly one of them; set checkpoint to a folder '
            'for inference in this process, or server_url for inference on a server'
        )
    # Imported only when chosen: with a server this Python needs no torch, without one no httpx.
    if parameters.server_url:
        from openvla_ros.serving.client import RemoteBackend

        return RemoteBackend(
            parameters.server_url, parameters.unnorm_key, timeout_s=parameters.server_timeout_s
        )
    _check_folder(parameters.checkpoint)
    from openvla_ros.model.local_backend import LocalBackend

    return LocalBackend.load(
        parameters.checkpoint,
        parameters.unnorm_key,
        dtype=parameters.dtype,
        device=parameters.device,
        quantization=parameters.quantization,
        cuda_graphs=parameters.cuda_graphs,
        adapter=str(Path(parameters.adapter).expanduser()) if parameters.adapter else None,
        revision=parameters.revision or None,
        allow_download=parameters.allow_download,
        allow_slow=parameters.allow_slow,
    )


def start_policy(
    parameters: PolicyParameters,
    profile: DatasetProfile,
    policy_rate_hz: float,
    load: LoadBackend,
    report: Report,
    closing: threading.Event,
) -> Policy:
    """Make a policy that may act; runs in the worker's thread.

    Args:
        parameters: The node's.
        profile: Conventions of the dataset.
        policy_rate_hz: The rate it must keep.
        load: Makes the backend.
        report: Told what is going on.
        closing: Set when the node ends.

    Raises:
        StartRefused: it cannot be made or must not act.
    """
    what = parameters.server_url or parameters.checkpoint
    report(Status('LOADING', f'loading {what}'))
    try:
        backend = load(parameters)
        _set_threads(parameters.num_threads)
        _wait_until_warm(backend, report, closing)
        check_statistics(backend, profile, parameters)
        policy = Policy(backend, profile)
        report(Status('WARMING_UP', f'{backend.description}: measuring ten actions'))
        durations_s = measure_durations_s(policy)
    except StartRefused:
        raise
    except ImportError as error:
        raise StartRefused(
            'NOT_INSTALLED',
            f'{" ".join(str(error).split())[:200]}; install what inference in this process needs '
            '(requirements), or set server_url',
            2,
        ) from error
    except BackendUnavailable as error:
        raise StartRefused('SERVER_UNAVAILABLE', str(error), 3) from error
    except (ConfigError, UnnormKeyError, ValueError, OSError) as error:
        raise StartRefused('MODEL_REFUSED', ' '.join(str(error).split()), 2) from error
    kept_hz = rate_kept_hz(durations_s)
    check_rate(kept_hz, policy_rate_hz, parameters.allow_slow)
    check_waits(statistics.median(durations_s), parameters)
    if kept_hz < policy_rate_hz:
        report(
            Status(
                'WARMING_UP',
                f'{backend.description}: {kept_hz:.2f} Hz instead of {policy_rate_hz:.2f} Hz '
                '(allow_slow); the controller arms only where 3 actions come within 1 s or 4 '
                'steps',
            )
        )
    return policy


def load_profile(parameters: PolicyParameters) -> DatasetProfile:
    """Read the profile of the dataset the parameters name.

    Raises:
        ConfigError: it cannot be used, or none is named; what the checkpoint offers is listed.
    """
    directory = parameters.dataset_directory or None
    if parameters.unnorm_key:
        return profile_of_policy(
            parameters.unnorm_key, directory, parameters.adapter, parameters.checkpoint
        )
    profiles = list_dataset_profiles(directory)
    offered = _offered_keys(parameters)
    if not offered:
        return load_dataset_profile('', directory)
    usable = [key for key in offered if find_dataset_profile(key, directory) is not None]
    what = parameters.adapter or parameters.checkpoint or f'server {parameters.server_url}'
    raise ConfigError(
        f'unnorm_key: is not set; {what} has statistics of: {", ".join(offered)}; of these '
        f'{", ".join(usable) or "none"} can be set now; another one needs a dataset profile made '
        f'from template.yaml (there are profiles of {", ".join(profiles)})'
    )


def _offered_keys(parameters: PolicyParameters) -> list[str]:
    """Keys of the checkpoint's (or its adapter's, or the server's) statistics; [] if unknown."""
    try:
        if parameters.server_url:
            from openvla_ros.serving.client import RemoteBackend

            server = RemoteBackend(
                parameters.server_url, '', timeout_s=parameters.server_timeout_s
            )
            with contextlib.closing(server):
                return server.unnorm_keys()
        if not parameters.checkpoint:
            return []
        _check_folder(parameters.checkpoint)
        from openvla_ros.model.local_backend import statistics_of

        adapter = Path(parameters.adapter).expanduser() if parameters.adapter else None
        revision = parameters.revision or None
        return list(statistics_of(parameters.checkpoint, adapter, revision=revision))
    except (ImportError, BackendUnavailable):
        return []


def check_statistics(
    backend: InferenceBackend, profile: DatasetProfile, parameters: PolicyParameters
) -> None:
    """Refuse statistics whose actions would be implausibly large for an arm.

    Raises:
        ConfigError: they are, or they are not of seven-number actions.
        UnnormKeyError: the backend has no statistics of this dataset.
    """
    if backend.norm_stats is None:
        return
    key = resolve_unnorm_key(backend.norm_stats, parameters.unnorm_key)
    check_step_envelope(
        backend.norm_stats[key],
        profile,
        plausible_step_m=parameters.plausible_step_m,
        plausible_step_rad=parameters.plausible_step_rad,
    )


def check_rate(kept_hz: float, policy_rate_hz: float, allow_slow: bool) -> None:
    """Refuse a model that cannot keep the rate it was trained for.

    Raises:
        StartRefused: it cannot, and that was not allowed.
    """
    if kept_hz >= policy_rate_hz or allow_slow:
        return
    raise StartRefused(
        'TOO_SLOW',
        f'the model keeps {kept_hz:.2f} Hz here, {policy_rate_hz:.2f} Hz are needed; nothing is '
        'published. Use a faster device, a smaller quantization or a server, or set allow_slow '
        '(the arm will stop and go)',
        None,
    )


def check_waits(action_s: float, parameters: PolicyParameters) -> None:
    """Refuse a model whose actions would all come too late, or would end the node as hung.

    Args:
        action_s: How long an action takes, the median of those measured [s].
        parameters: The node's; what it waits for is set there.

    Raises:
        StartRefused: it waits less than that; the sentence has the values to set.
    """
    wanted_s = math.ceil(10.0 * _WAIT_FACTOR * action_s) / 10.0
    too_short = [
        (name, getattr(parameters, name))
        for name in ('max_observation_age_s', 'hang_timeout_s')
        if getattr(parameters, name) <= action_s
    ]
    if not too_short:
        return
    got = ' and '.join(f'{name} is {value:g} s' for name, value in too_short)
    if wanted_s > OLDEST_OBSERVATION_S:
        advice = (
            f'an image may be {OLDEST_OBSERVATION_S:g} s old at most; use a faster device, a '
            'smaller quantization or a server'
        )
    else:
        settings = ' and '.join(f'{name}:={wanted_s:.1f}' for name, _ in too_short)
        advice = (
            f'set {settings}; the controller takes such actions only if actions.max_age_s in the '
            f"robot's profile is {wanted_s:g} s too"
        )
    raise StartRefused(
        'TOO_SLOW',
        f'the model needs {action_s:.2f} s for an action here, but {got}: nothing is published; '
        f'{advice}',
        None,
    )


def _check_folder(checkpoint: str) -> None:
    """Refuse a mistyped path at once, not after the seconds that importing torch takes."""
    if checkpoint.startswith(('/', '.', '~')) and not Path(checkpoint).expanduser().is_dir():
        raise ConfigError(
            f'checkpoint: {checkpoint!r} is not a folder; expected one with config.json, '
            'preprocessor_config.json (or processor_config.json), tokenizer.json and *.safetensors'
        )


def _wait_until_warm(backend: InferenceBackend, report: Report, closing: threading.Event) -> None:
    """Warm the backend up; a server that is not there yet is waited for."""
    report(Status('WARMING_UP', f'{backend.description}: self-test and first action'))
    while True:
        try:
            backend.warm_up()
            return
        except BackendUnavailable as error:
            report(Status('SERVER_UNAVAILABLE', f'{error}; trying again'))
            if closing.wait(_RETRY_S):
                raise StartRefused('CLOSING', 'ended before the server answered', None) from error


def _set_threads(num_threads: int) -> None:
    """Give the model its CPU threads; torch counts them per thread, so this one must ask."""
    torch = sys.modules.get('torch')
    if torch is not None:
        torch.set_num_threads(num_threads or max(1, (os.cpu_count() or 2) - 1))
        # An eager network hands Python's lock to the executor between two of its thousands of
        # small operations, and gets it back only after this interval.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
