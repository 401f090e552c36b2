"""A bag written in a thread: what is taken is in it, and a disk that fails is said."""

import threading

import pytest

from openvla_ros.data.bag_topic import BagTopic
from openvla_ros.data.episode_writer import EpisodeWriter, message_types
from openvla_ros.data.recording import Recording

STORE = message_types()
TEXT = BagTopic('/instruction', 'std_msgs/msg/String')
SECOND_NS = 1_000_000_000


def text(content):
    kind = 'std_msgs/msg/String'
    return bytes(STORE.serialize_cdr(STORE.types[kind](data=content), kind))


def test_what_is_taken_is_in_the_bag_in_the_order_of_time(tmp_path):
    writer = EpisodeWriter(tmp_path / 'bag', [TEXT])
    for second in (3, 1, 2):
        writer.offer(TEXT.name, second * SECOND_NS, text(str(second)))
    path = writer.close(lambda: tmp_path / 'bag').result(10.0)
    with Recording(path) as recording:
        assert recording.texts(TEXT.name) == [(1.0, '1'), (2.0, '2'), (3.0, '3')]
    assert (writer.counts, writer.lost_messages, writer.failure) == ({TEXT.name: 3}, 0, '')


def test_the_seal_is_called_when_the_bag_is_complete(tmp_path):
    writer = EpisodeWriter(tmp_path / 'bag', [TEXT])
    writer.offer(TEXT.name, SECOND_NS, text('once'))

    def seal():
        assert (tmp_path / 'bag' / 'metadata.yaml').exists()
        return (tmp_path / 'bag').rename(tmp_path / 'named')

    with Recording(writer.close(seal).result(10.0)) as recording:
        assert recording.texts(TEXT.name) == [(1.0, 'once')]


def test_a_disk_that_refuses_is_one_sentence_and_ends_it(tmp_path):
    (tmp_path / 'bag').mkdir()  # there is something already
    writer = EpisodeWriter(tmp_path / 'bag', [TEXT])
    with pytest.raises(Exception, match='exists already'):
        writer.close(lambda: tmp_path / 'bag').result(10.0)
    assert 'bag cannot be written: ' in writer.failure
    writer.offer(TEXT.name, SECOND_NS, text('late'))
    assert writer.counts == {TEXT.name: 0}


def test_a_slow_disk_loses_messages_and_counts_them_instead_of_holding_anyone_up(
    tmp_path, monkeypatch
):
    go_on = threading.Event()
    write_all = EpisodeWriter._write_all

    def slow(self, writer):
        assert go_on.wait(30.0)
        write_all(self, writer)

    monkeypatch.setattr(EpisodeWriter, '_write_all', slow)
    writer = EpisodeWriter(tmp_path / 'bag', [TEXT], max_waiting_bytes=100)
    data = text('x' * 60)  # 69 bytes: a header of 4, a length of 4, the text and its end
    for second in range(1, 6):
        writer.offer(TEXT.name, second * SECOND_NS, data)
    # One fits; with the second more than 100 bytes wait.
    assert (writer.counts[TEXT.name], writer.lost_messages) == (2, 3)
    go_on.set()
    path = writer.close(lambda: tmp_path / 'bag').result(10.0)
    with Recording(path) as recording:
        assert len(recording.texts(TEXT.name)) == 2


def test_an_aborted_bag_can_be_deleted_at_once(tmp_path):
    writer = EpisodeWriter(tmp_path / 'bag', [TEXT])
    writer.offer(TEXT.name, SECOND_NS, text('once'))
    writer.abort()
    assert not writer._thread.is_alive()
