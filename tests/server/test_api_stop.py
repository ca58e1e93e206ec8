"""Stop strings: nothing that belongs to one is ever shown, and nothing shown is ever taken back."""

from hypothesis import given
from hypothesis import strategies as st

from topmast_server.api.stop import StopStrings

TEXT = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


@given(pieces=st.lists(TEXT, max_size=10), stops=STOPS)
def test_streamed_text_is_the_text_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.hit:
            break
    shown += matcher.flush()
    whole = "".join(pieces)
    # A stop string counts when it is complete: of two, the one that ends first, as a reader of the stream sees it.
    expected = {whole[: whole.find(stop)] for stop in stops if stop in whole}
    assert matcher.hit == bool(expected)
    assert shown in expected if expected else shown == whole
    assert not any(stop in shown for stop in stops)


def test_a_possible_beginning_is_held_back_and_released() -> None:
    matcher = StopStrings(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("ough") == "ENough"
    assert matcher.push("E") == ""
    assert matcher.flush() == "E"


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopStrings([]).push("anything") == "anything"


def test_the_earliest_of_several_stop_strings_wins() -> None:
    matcher = StopStrings(["cd", "b"])
    assert matcher.push("abcd") == "a"
    assert matcher.hit
    assert matcher.push("more") == "" and matcher.flush() == ""
