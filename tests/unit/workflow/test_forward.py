from pacs_core.workflow.forward import delay_after


def test_delays_double_from_a_minute_to_an_hour() -> None:
    assert [delay_after(failures) for failures in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert delay_after(10_000) == 3600
