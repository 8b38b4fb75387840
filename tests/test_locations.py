import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.config import Config
from markovae.data.data_config import DataConfig
from markovae.data.loading import load_data
from markovae.errors import StoppedRun, UserError
from markovae.locations import FromFile, refusal, without_secrets, without_secrets_of
from markovae.log import log

CHAINS = (
    'reference://::data:application/json,{"version":1,"gen":[{"key":"{{cycler.__init__.__globals__.os}}"}]}',
    "simplecache::https://host/shards",
    "https://host/x::reference://y",
    "s3://bucket/a::b.tar",
)
OTHERS = ("reference", "data", "filecache", "blockcache", "simplecache", "github", "ftp", "sftp", "webhdfs", "memory")
OTHERS += ("smb", "git", "jupyter", "dask", "zip", "tar", "libarchive", "local", "FILE", "HTTPS", "python")


@pytest.fixture
def no_fsspec(monkeypatch):
    """Where fsspec were reached, it would be told."""

    class Reached:
        def __getattr__(self, name: str):
            raise AssertionError(f"fsspec.{name} was reached")

    monkeypatch.setitem(sys.modules, "fsspec", Reached())


@pytest.mark.parametrize("location", [*CHAINS, *(f"{scheme}://host/shards" for scheme in OTHERS)])
def test_chains_and_other_schemes_never_reach_fsspec_even_where_the_person_names_them(no_fsspec, location: str):
    assert refusal(location)
    with pytest.raises(UserError, match="not opened"):
        load_data(DataConfig(location))


@pytest.mark.parametrize(
    "location", [*CHAINS, "https://host/shards", "s3://bucket/x-{0..3}.tar", "file:///data/shards"]
)
def test_a_url_of_a_file_is_refused_by_a_sentence_that_shows_it(no_fsspec, tmp_path: Path, location: str):
    path = tmp_path / "shared.toml"
    path.write_text(f"[data]\nsource = {json.dumps(location)}\n", encoding="utf-8")
    config = Config.from_toml(path)
    with pytest.raises(UserError) as raised:
        load_data(config.data)
    assert without_secrets(location) in str(raised.value)
    assert "comes from a file" in str(raised.value)
    assert "as DATA" in str(raised.value)
    # Settings beside it do not make it the person's own; naming it does.
    assert isinstance(config.with_settings(["data.size=8"]).data.source, FromFile)
    named = config.with_settings(["data.source=https://host/shards"])
    assert not isinstance(named.data.source, FromFile)
    assert named == Config(DataConfig("https://host/shards"))


def test_what_a_file_says_of_this_machine_is_read(tmp_path: Path):
    assert len(load_data(Config.parse(b'[data]\nsource = "digits"').data).train) > 1000
    missing = json.dumps(str(tmp_path / "none"))
    with pytest.raises(UserError, match="there is no data source"):
        load_data(Config.parse(f"[data]\nsource = {missing}".encode()).data)


def test_the_schemes_that_are_opened():
    assert [refusal(f"{scheme}://place/x") for scheme in ("file", "http", "https", "s3", "gs", "hf")] == [None] * 6


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host:8080/a/b.tar?token=hidden#part", "https://host:8080/a/b.tar"),
        ("https://user:sec/ret@host/a", "https://host/a"),
        ("https://hidden@host", "https://host"),
        ("s3://bucket/x-{000..099}.tar", "s3://bucket/x-{000..099}.tar"),
        ("hf://datasets/someone/some@main/x", "hf://datasets/someone/some@main/x"),
        ("http://[::1]:80/x?k=v", "http://[::1]:80/x"),
        ("http://host:80", "http://host:80"),
        ("photos/a@b?c", "photos/a@b?c"),
    ],
)
def test_secrets_of_urls_are_not_shown(url: str, shown: str):
    assert without_secrets(url) == shown
    assert without_secrets(f"({url}): see '{url}'") == f"({shown}): see '{shown}'" or "?" in url
    assert without_secrets(shown) == shown


SECRET = st.text("abcdefghXYZ0123456789-_%/", min_size=8, max_size=20).map(lambda text: f"S{text.strip('/')}S")


@given(SECRET.map(lambda text: text.replace("/", "")), SECRET, SECRET)
def test_no_secret_outlives_messages_errors_and_what_is_written(user: str, password: str, token: str):
    url = f"https://{user}:{password}@host/shards?token={token}"
    config = Config(DataConfig(url))
    assert config.data.source == url, "the process itself uses it"
    texts = (
        config.to_toml(),
        str(UserError(f"{url} cannot be read")),
        str(StoppedRun(f"{url}: cut")),
        without_secrets_of(url, f"403 for {token} of {user}"),
        Config.parse(config.to_toml().encode()).data.source,
    )
    assert not [text for text in texts if password in text or token in text or user in text]
    assert config.hash() == Config(DataConfig("https://host/shards")).hash()


def test_remarks_are_without_secrets(capsys):
    log("reading https://me:hidden@host/x?key=hidden now")
    assert capsys.readouterr().err == "reading https://host/x now\n"
