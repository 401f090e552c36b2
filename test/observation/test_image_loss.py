from openvla_ros.observation.image_loss import LOST_IN_WINDOW, WINDOW_S, ImageLoss


def test_a_lost_image_now_and_then_is_not_worth_a_word():
    loss = ImageLoss()
    for k in range(20):
        now_s = 1.5 * WINDOW_S * k
        loss.note(LOST_IN_WINDOW - 1, now_s)
        assert not loss.judge(now_s)
    assert not loss.losing


def test_steady_loss_is_said_once_and_its_end_once():
    loss = ImageLoss()
    said = []
    for tick in range(60):  # every 0.5 s; images are lost in the first 10 s
        now_s = 0.5 * tick
        if now_s < 10.0:
            loss.note(3, now_s)
        if loss.judge(now_s):
            said.append((now_s, loss.losing))
    # 3, 6: the second tick has five. The last loss is at 9.5 s.
    assert said == [(0.5, True), (9.5 + WINDOW_S + 0.5, False)]
    assert loss.total == 60
