import time

import caffelite as caffe


def test_measures_from_start_to_stop():
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    time.sleep(0.01)
    timer.stop()
    measured = timer.ms
    assert 10 <= measured < 5000
    time.sleep(0.002)
    assert timer.ms == measured
    timer.start()
    assert timer.ms < measured + 1e4
