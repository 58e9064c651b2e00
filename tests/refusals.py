"""What reading data refuses, in one line."""

import pytest

from binjax.data import DataError, load


def refused(*words, call=load, **options):
    with pytest.raises(DataError) as caught:
        call(**options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
    return message
