import pytest

from riboray.errors import ConfigError, InputError
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.keys import KEYS_VARIABLE, KeyRing, new_key


def test_a_key_opens_and_its_entry_does_not_give_it_away(tmp_path):
    (key, entry), (other, second) = new_key("mine"), new_key("yours")
    assert len(key) > 40
    assert key not in entry
    assert key != other
    file = tmp_path / "keys"
    file.write_text(f"# keys\n\n{entry}\n{second}\r\n")
    ring = KeyRing.read(str(file), {})
    assert ring
    assert ring.check(f"Bearer {key}") == "mine"
    assert ring.check(f"bearer  {other}") == "yours"
    assert ring.check(None, other) == "yours"
    assert KeyRing.read(None, {KEYS_VARIABLE: f"{entry},{second}"}).check(None, key) == "mine"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc"])
def test_without_a_key(header):
    ring = KeyRing.read(None, {KEYS_VARIABLE: new_key("a")[1]})
    with pytest.raises(ServiceError) as refused:
        ring.check(header)
    assert refused.value.code is ErrorCode.UNAUTHENTICATED
    assert refused.value.code.status == 401
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize("key", ["x", "\udcff", "ä" * 1000, "rbr_" + "a" * 43])
def test_with_an_unknown_key(key):
    ring = KeyRing.read(None, {KEYS_VARIABLE: new_key("a")[1]})
    with pytest.raises(ServiceError) as refused:
        ring.check(f"Bearer {key}")
    assert refused.value.code.status == 403
    assert key not in str(refused.value)


def test_the_proxys_own_authorization_does_not_hide_the_key():
    key, entry = new_key("a")
    ring = KeyRing.read(None, {KEYS_VARIABLE: entry})
    assert ring.check("Basic dXNlcjpwYXNz", key) == "a"


def test_no_keys_no_lock():
    ring = KeyRing.read(None, {})
    assert not ring
    assert ring.check(None) is None


@pytest.mark.parametrize("line", ["secret", "a:b", "a b:" + 64 * "0", "a:" + 64 * "G"])
def test_a_line_that_is_no_entry_is_told_without_showing_it(tmp_path, line):
    file = tmp_path / "keys"
    file.write_text(f"{new_key('x')[1]}\n{line}\n")
    with pytest.raises(InputError, match="record 2") as told:
        KeyRing.read(str(file), {})
    assert line not in str(told.value)


def test_two_keys_of_one_name(tmp_path):
    file = tmp_path / "keys"
    file.write_text("\n".join(new_key("x")[1] for _ in range(2)))
    with pytest.raises(InputError, match="x has another key"):
        KeyRing.read(str(file), {})


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        KeyRing.read(str(tmp_path / "none"), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(InputError, match="cannot be read"):
        KeyRing.read(str(tmp_path / "binary"), {})


def test_names():
    with pytest.raises(ConfigError, match="name of a key"):
        new_key("a\nb")
