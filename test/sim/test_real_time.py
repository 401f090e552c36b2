from openvla_ros.sim.real_time import WINDOW_S, RealTimeMonitor


def run(monitor, start_s, seconds, speed, image_hz):
    """Ten notes a second; returns what was said and the time."""
    said = []
    for i in range(round(10 * seconds)):
        for _ in range(round(image_hz * (i + 1) / 10) - round(image_hz * i / 10)):
            monitor.count_picture()
        said.append(monitor.note(start_s + 0.1 * (i + 1), 0.1 * speed))
    return [sentence for sentence in said if sentence], start_s + seconds


def test_nothing_is_said_while_it_keeps_up():
    assert run(RealTimeMonitor(15.0), 50.0, 30, 1.0, 15)[0] == []


def test_slow_physics_is_said_once_and_recovery_once():
    monitor = RealTimeMonitor(15.0)
    _, now_s = run(monitor, 0.0, 2 * WINDOW_S, 1.0, 15)
    said, now_s = run(monitor, now_s, 4 * WINDOW_S, 0.5, 15)
    assert len(said) == 1
    assert '0.50 of real time' in said[0]
    said, _ = run(monitor, now_s, 4 * WINDOW_S, 1.0, 15)
    assert len(said) == 1
    assert 'as fast as wanted again' in said[0]


def test_missing_pictures_are_said():
    said, _ = run(RealTimeMonitor(15.0), 0.0, 3 * WINDOW_S, 1.0, 5)
    assert len(said) == 1
    assert 'of 15 pictures/s' in said[0]
