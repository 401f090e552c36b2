"""The recorder: one bag an episode, from when a person says so until it has its label.

It only listens. Messages are taken as bytes and written by a thread of their own, so neither a
slow disk nor a large image holds up the executor.
"""

if __name__ == '__main__':  # before what takes long to import
    from openvla_ros.core.early_exit import exit_at_signals

    exit_at_signals()


import concurrent.futures
import datetime
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.core.status import Status
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.episode_folders import EpisodeFolders
from openvla_ros.data.episode_label import (
    DISCARD,
    EpisodeLabel,
    checked_outcome,
    checked_sentence,
)
from openvla_ros.data.recording_readiness import Needs, Observed, camera_warning, faults
from openvla_ros.nodes.parameters import declare, parameter, sections_for_other_nodes
from openvla_ros.nodes.recorded_topics import (
    IMAGE,
    INSTRUCTION,
    RecordedTopics,
    Tap,
    serialized_text,
)
from openvla_ros.safety.robot_profile import load_robot_profile
from openvla_ros.srv import EndEpisode, StartEpisode

_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_REPORT_PERIOD_S = 1.0
_LOG_PERIOD_S = 5.0
_CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of recorder_node."""

    robot: str = parameter(
        description='robot profile: a name in config/robots, or the path of a .yaml file'
    )
    unnorm_key: str = parameter(
        description='dataset the episodes are for; its profile says how fast the camera must be'
    )
    dataset_directory: str = parameter(
        '', description="folder of dataset profiles; '' for the ones of this package"
    )
    directory: str = parameter(
        '',
        description="folder of the episodes; '' for recordings/<unnorm_key> where the node starts",
    )
    image_transport: str = parameter(
        'raw',
        description='raw: camera/image_raw, compressed: camera/image_raw/compressed (JPEG, PNG)',
        choices=('raw', 'compressed'),
    )
    image_reliability: str = parameter(
        'auto',
        description='QoS of the image subscription; auto follows the camera',
        choices=('auto', 'reliable', 'best_effort'),
    )
    min_free_gb: float = parameter(
        2.0, description='free disk below which no episode begins', unit='GB', lo=0.01, hi=1e4
    )


@dataclass
class _Episode:
    """The episode in hand; instructions wait for its end, which may say another sentence."""

    path: Path
    writer: Any
    started_s: float
    started_ns: int
    sentence: str
    heard: list[tuple[int, str]] = field(default_factory=list)


class RecorderNode(Node):
    """Starts and ends episodes, and says what they consist of."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__('recorder_node', **node_arguments)
        self._values = declare(self, RecorderParameters)
        for sentence in sections_for_other_nodes(self):
            raise ConfigError(sentence)
        self._profile = load_robot_profile(self._values.robot)
        dataset = load_dataset_profile(
            self._values.unnorm_key, self._values.dataset_directory or None
        )
        self._needs = Needs(
            dataset.step_s,
            self._profile.pose.timeout_s,
            round(1e9 * self._values.min_free_gb),
        )
        self._writer_type = _writer_type()
        self._episode: _Episode | None = None
        self._closing: concurrent.futures.Future[Path] | None = None
        self._failure = ''
        self._code = ''
        self._log_due_s = 0.0
        self._topics = RecordedTopics(
            self,
            self._profile,
            transport=self._values.image_transport,
            reliability=self._values.image_reliability,
            on_message=self._on_message,
            on_instruction=self._on_instruction,
        )
        directory = self._values.directory or f'recordings/{self._values.unnorm_key}'
        self._folders = EpisodeFolders(directory)
        self._tell_lost()
        self._status = self.create_publisher(String, '~/status', _LATCHED)
        self.create_service(StartEpisode, '~/start_episode', self._on_start)
        self.create_service(EndEpisode, '~/end_episode', self._on_end)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=steady)

    def _tell_lost(self) -> None:
        self.get_logger().info(
            f'episodes for {self._values.unnorm_key} go to {self._folders.directory}'
        )
        for path in self._folders.lost():
            size = sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
            self.get_logger().warning(
                f'episode {path.name} was lost: the recorder ended before it was labeled; '
                f'{size / 1e6:.1f} MB of it are in {path}, delete them if they are of no use'
            )

    # Messages ----------------------------------------------------------------------------------

    def _on_message(self, tap: Tap, data: bytes) -> None:
        if self._episode is not None:
            self._episode.writer.offer(tap.bag.name, self._now_ns(), data)

    def _on_instruction(self, text: str) -> None:
        if self._episode is not None:
            self._episode.heard.append((self._now_ns(), text))

    # Services ----------------------------------------------------------------------------------

    def _on_start(
        self, request: StartEpisode.Request, response: StartEpisode.Response
    ) -> StartEpisode.Response:
        try:
            episode, warning = self._start(request.sentence)
        except ConfigError as error:
            response.message = str(error)
            self.get_logger().warning(f'not recording: {error}')
            return response
        response.success, response.episode = True, episode.path.name
        response.message = f'recording {episode.path.name}{f"; {warning}" if warning else ""}'
        self.get_logger().info(response.message)
        self._report()
        return response

    def _start(self, sentence: str) -> tuple[_Episode, str]:
        if self._episode is not None:
            raise ConfigError(f'episode {self._episode.path.name} is being recorded; end it first')
        if self._closing is not None:
            raise ConfigError('the last episode is still being written; try again in a moment')
        sentence = checked_sentence(sentence) if sentence.strip() else ''
        started_ns = self._now_ns()
        if not started_ns:
            raise ConfigError('use_sim_time is set and no /clock arrived; start what publishes it')
        observed = self._observed()
        found = faults(observed, self._needs)
        if found:
            raise ConfigError('; '.join(fault.sentence for fault in found))
        self._failure = ''
        # Local time: people look for an episode by when they made it.
        path = self._folders.begin(datetime.datetime.now().astimezone())
        taps = self._topics.taps.values()
        writer = self._writer_type(path, [tap.bag for tap in taps])
        self._episode = _Episode(path, writer, time.monotonic(), started_ns, sentence)
        self._log_due_s = self._episode.started_s + _LOG_PERIOD_S
        for tap in taps:
            for data in tap.kept:
                writer.offer(tap.bag.name, started_ns, data)
        if self._topics.instruction.strip():
            self._episode.heard.append((started_ns, self._topics.instruction))
        return self._episode, camera_warning(observed, self._needs)

    def _on_end(
        self, request: EndEpisode.Request, response: EndEpisode.Response
    ) -> EndEpisode.Response:
        try:
            response.message, response.path = self._end(request.outcome, request.sentence)
            response.success = True
            self.get_logger().info(response.message)
        except ConfigError as error:
            response.message = str(error)
            self.get_logger().warning(response.message)
        self._report()
        return response

    def _end(self, outcome: str, sentence: str) -> tuple[str, str]:
        """Return what was done, and the episode's folder."""
        episode = self._episode
        if episode is None:
            raise ConfigError(self._failure or 'no episode is being recorded; start one first')
        if checked_outcome(outcome) == DISCARD:
            self._episode = None
            episode.writer.abort()
            self._folders.discard(episode.path)
            return f'discarded episode {episode.path.name}', ''
        label, texts = self._label(episode, outcome, sentence)
        topic = self._topics.taps[INSTRUCTION].bag.name
        for at_ns, text in texts:
            episode.writer.offer(topic, at_ns, serialized_text(text))
        self._episode = None
        self._closing = episode.writer.close(lambda: self._folders.finish(episode.path, label))
        return self._wait_until_closed(episode)

    def _label(
        self, episode: _Episode, outcome: str, said: str
    ) -> tuple[EpisodeLabel, list[tuple[int, str]]]:
        """Return the label, and the instructions as the bag will hold them."""
        taps = self._topics.taps
        if not episode.writer.counts[taps[IMAGE].bag.name]:
            raise ConfigError(
                f'episode {episode.path.name} holds no image; go on until there are some, or end '
                f'it with the outcome {DISCARD}'
            )
        heard = [text for _, text in episode.heard if text.strip()]
        said = said.strip() or episode.sentence
        sentence = checked_sentence(said or (heard[-1] if heard else ''))
        texts = [(episode.started_ns, sentence)] if said else episode.heard
        topics = {
            role: tap.bag.name
            for role, tap in taps.items()
            if role == INSTRUCTION or episode.writer.counts[tap.bag.name]
        }
        label = EpisodeLabel(
            outcome=outcome,  # type: ignore[arg-type]  # checked_outcome has seen it
            sentence=sentence,
            unnorm_key=self._values.unnorm_key,
            robot=self._profile.name,
            base_frame=self._profile.base_frame,
            ee_frame=self._profile.ee_frame,
            topics=topics,
            lost_messages=episode.writer.lost_messages,
        )
        return label, texts

    def _wait_until_closed(self, episode: _Episode) -> tuple[str, str]:
        assert self._closing is not None
        final = self._folders.directory / episode.path.name
        try:
            self._closing.result(_CLOSE_TIMEOUT_S)
        except concurrent.futures.TimeoutError:
            # The executor goes on; the timer says how it ended.
            return f'{final} is still being written; ~/status says when it is there', str(final)
        except Exception as error:
            self._closing, self._failure = None, episode.writer.failure
            raise ConfigError(self._lost_sentence(episode.path)) from error
        self._closing = None
        lost = episode.writer.lost_messages
        note = f'; the disk was too slow for {lost} messages, which are missing' if lost else ''
        return f'saved {final} ({episode.writer.bytes / 1e6:.1f} MB){note}', str(final)

    # Report ------------------------------------------------------------------------------------

    def _report(self) -> None:
        try:
            self._publish_report()
        except Exception as error:  # must not take the answer of a service with it
            self.note_error(error)

    def _publish_report(self) -> None:
        self._look_at_writer()
        now_s = time.monotonic()
        observed = self._observed()
        found = faults(observed, self._needs)
        state = self._state(found)
        line = f'{state.code}: {state.sentence}'
        if self._episode is not None:
            line += f'; {self._figures(self._episode, now_s, observed)}'
        self._status.publish(String(data=line))
        code = '+'.join([state.code, *(fault.code for fault in found)])
        if code != self._code:
            self._code = code
            self._log_due_s = now_s + _LOG_PERIOD_S
            # Two calls: rclpy remembers the severity of each line of code.
            if found or self._failure:
                self.get_logger().warning(line)
            else:
                self.get_logger().info(line)
        elif self._episode is not None and now_s >= self._log_due_s:
            self._log_due_s = now_s + _LOG_PERIOD_S
            self.get_logger().info(line)

    def _state(self, found: list[Status]) -> Status:
        trouble = '; '.join(fault.sentence for fault in found)
        if self._episode is not None:
            name = self._episode.path.name
            return Status('RECORDING', f'{name}, but {trouble}' if found else name)
        if self._closing is not None:
            return Status('WRITING', 'the last episode is being written')
        if self._failure:
            return Status('WRITE_FAILED', self._failure)
        if found:
            return Status(found[0].code, trouble)
        return Status('READY', f'an episode can begin in {self._folders.directory}')

    def _figures(self, episode: _Episode, now_s: float, observed: Observed) -> str:
        duration_s = now_s - episode.started_s
        images = episode.writer.counts[self._topics.taps[IMAGE].bag.name]
        size_mb = episode.writer.bytes / 1e6
        text = (
            f'{duration_s:.0f} s, {images} images at {observed.image_rate_hz:.1f} Hz, '
            f'{size_mb:.1f} MB at {size_mb / max(duration_s, 1e-3):.1f} MB/s, '
            f'{observed.free_bytes / 1e9:.0f} GB free'
        )
        lost = episode.writer.lost_messages
        return f'{text}; {lost} messages lost: the disk is too slow' if lost else text

    def _look_at_writer(self) -> None:
        if self._episode is not None and self._episode.writer.failure:
            path, self._failure = self._episode.path, self._episode.writer.failure
            self._episode = None
            self.get_logger().error(self._lost_sentence(path))
        if self._closing is not None and self._closing.done():
            error = self._closing.exception()
            if error is None:
                self.get_logger().info(f'saved {self._closing.result()}')
            else:
                self._failure = f'the last episode was not saved: {error}'
            self._closing = None

    def _lost_sentence(self, path: Path) -> str:
        return f'episode {path.name} is lost: {self._failure}'

    def _observed(self) -> Observed:
        return self._topics.observed(time.monotonic(), self._folders.free_bytes())

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def note_error(self, error: Exception) -> None:
        """Log an unexpected exception of a callback."""
        self.get_logger().error(f'{type(error).__name__}: {str(error)[:200]}')

    def close(self) -> None:
        """Close the episode in hand; without a label it is not kept under a name."""
        episode, self._episode = self._episode, None
        if episode is not None:
            episode.writer.abort()
            self.get_logger().warning(
                f'episode {episode.path.name} was not labeled; what was recorded is in '
                f'{episode.path}'
            )
        if self._closing is not None:
            concurrent.futures.wait([self._closing])
        self._folders.close()


def _writer_type() -> Any:
    try:
        from openvla_ros.data.episode_writer import EpisodeWriter
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'{error.name} is not installed, and episodes are written with rosbags; pip install '
            'rosbags'
        ) from error
    return EpisodeWriter


_USAGE = """\
usage: recorder_node --ros-args -p robot:=NAME_OR_YAML -p unnorm_key:=KEY [-p directory:=FOLDER]

Records one bag an episode for a data set. docs/how-to/record.md says how; docs/parameters.md
lists every parameter.
  ros2 service call /recorder_node/start_episode openvla_ros/srv/StartEpisode
  ros2 service call /recorder_node/end_episode openvla_ros/srv/EndEpisode "{outcome: success}\""""


def main(args: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; 2 for a configuration that cannot be used."""
    argv = list(sys.argv if args is None else args)
    if {'--help', '-h'} & set(argv):
        print(_USAGE)
        return 0
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
        node = RecorderNode()
    except ConfigError as error:
        print(f'recorder_node: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stopping and rclpy.ok():
        try:
            executor.spin_once(timeout_sec=0.2)
        except Exception as error:  # one bad message must not end the episode
            node.note_error(error)
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
