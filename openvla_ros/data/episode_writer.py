"""One episode as an MCAP bag, written by a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from openvla_ros.core.resources import resource_path
from openvla_ros.data.bag_topic import BagTopic
from openvla_ros.data.episode_folders import sync

#: More than this waiting for the disk is not kept.
_MAX_WAITING_BYTES = 256 * 2**20
_SYNC_PERIOD_S = 2.0
_OWN_MESSAGES = ('PolicyAction', 'SafetyStatus')
_ROS_VERSION = 9  # of rosbag2's metadata


class EpisodeWriter:
    """Takes serialized messages at once and writes them later; ``failure`` says what went wrong.

    Attributes:
        bytes: Taken so far.
        counts: Messages taken so far, by topic.
        lost_messages: Refused because more than 256 MB waited for the disk.
        failure: Why nothing is written any more; empty while all is well.
    """

    def __init__(
        self,
        path: Path,
        topics: Sequence[BagTopic],
        *,
        max_waiting_bytes: int = _MAX_WAITING_BYTES,
    ) -> None:
        """Start the thread.

        Args:
            path: Folder of the bag; the thread makes it.
            topics: All there will be.
            max_waiting_bytes: What may wait for the disk.
        """
        self.path = path
        self.bytes = self.lost_messages = 0
        self.counts = dict.fromkeys((topic.name for topic in topics), 0)
        self.failure = ''
        self._topics = {topic.name: topic for topic in topics}
        self._max_waiting_bytes = max_waiting_bytes
        self._written_bytes = 0
        self._queue: queue.SimpleQueue[tuple[str, int, bytes] | None] = queue.SimpleQueue()
        self._seal: Callable[[], Path] = lambda: path
        self._aborted = False
        self._closed: Future[Path] = Future()
        self._thread = threading.Thread(target=self._run, name='episode writer', daemon=True)
        self._thread.start()

    def offer(self, topic: str, at_ns: int, data: bytes) -> None:
        """Take one message.

        Args:
            topic: One of the topics.
            at_ns: ROS time of its arrival [ns].
            data: Serialized (CDR).
        """
        if self.failure:
            return
        if self.bytes - self._written_bytes > self._max_waiting_bytes:
            self.lost_messages += 1
            return
        self.bytes += len(data)
        self.counts[topic] += 1
        self._queue.put((topic, at_ns, data))

    def close(self, seal: Callable[[], Path]) -> 'Future[Path]':
        """End the bag and call ``seal`` in the thread; returns what it will return or raise.

        Args:
            seal: Called when the bag is complete; gives it its name.
        """
        self._seal = seal
        self._queue.put(None)
        return self._closed

    def abort(self) -> None:
        """Stop writing and wait for the thread; the bag stays as it is."""
        self._aborted = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with Writer(
                self.path, version=_ROS_VERSION, storage_plugin=StoragePlugin.MCAP
            ) as writer:
                self._write_all(writer)
            self._closed.set_result(self.path if self._aborted else self._seal())
        except Exception as error:  # a full disk, a pulled stick: whatever the system raises
            said = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            self.failure = f'{self.path} cannot be written: {" ".join(str(said).split())}'
            self._closed.set_exception(error)

    def _write_all(self, writer: Writer) -> None:
        store = message_types()
        connections = {
            topic.name: writer.add_connection(
                topic.name,
                topic.kind,
                typestore=store,
                offered_qos_profiles=[_qos(latched=topic.latched)],
            )
            for topic in self._topics.values()
        }
        file = self.path / f'{self.path.name}.mcap'
        sync_due_s = time.monotonic() + _SYNC_PERIOD_S
        while (item := self._queue.get()) is not None and not self._aborted:
            topic, at_ns, data = item
            writer.write(connections[topic], at_ns, data)
            self._written_bytes += len(data)
            # Bit by bit, so that little is left to wait for at the end.
            if time.monotonic() >= sync_due_s:
                sync(file)
                sync_due_s = time.monotonic() + _SYNC_PERIOD_S


def message_types() -> Any:
    """Return the message definitions of a recorder: the standard ones and this package's."""
    store = get_typestore(Stores.LATEST)
    for name in _OWN_MESSAGES:
        text = resource_path(f'msg/{name}.msg').read_text('utf-8')
        store.register(get_types_from_msg(text, f'openvla_ros/msg/{name}'))
    return store


def _qos(*, latched: bool) -> Qos:
    unlimited = QosTime(2147483647, 4294967295)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=100 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=unlimited,
        lifespan=unlimited,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=unlimited,
        avoid_ros_namespace_conventions=False,
    )
