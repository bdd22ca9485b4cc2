"""Contract: `apppot build` does what users know of Containerfiles, as root of a machine."""

from __future__ import annotations

import os
import re
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.contract.building import Builder, builder, cached
from tests.contract.conftest import IMAGE
from tests.contract.harness import PATIENCE

assert builder  # a fixture


def test_run_is_root_in_the_image(builder: Builder) -> None:
    said = builder.good(
        """FROM ${BASE}
ARG V=none
ENV E="a b"
RUN id -u && pwd && echo "$V/$E" && chown 12:34 /etc/motd && mknod /dev-x c 1 3
WORKDIR deep/er
RUN pwd >where; rm /etc/debian_version; touch -d @5 /old; setcap 2>/dev/null; :
SHELL ["/bin/bash", "-c"]
RUN [[ a == a ]] && echo $BASH_VERSION >/bash
RUN ["/bin/cp", "/bash", "/bash copy"]
RUN <<EOF
echo one >/doc
echo two >>/doc
EOF
RUN <<PROGRAM
#!/usr/bin/env -S sed p
x
PROGRAM
""",
        "--build-arg",
        "V=given",
    )
    assert "\n0\n/\ngiven/a b\n" in said
    assert said.count("\nx\nx\n") == 1
    found = builder.run(
        "stat -c '%u:%g' /etc/motd; stat -c %F /dev-x; cat /deep/er/where /doc;"
        " test -e /etc/debian_version || echo gone; stat -c %Y /old; cmp /bash '/bash copy'; pwd"
    )
    assert found == ("12:34\ncharacter special file\n/deep/er\none\ntwo\ngone\n5\n/deep/er\n")


STAT = "stat -c '%n %a %u:%g %F'"


def looked(builder: Builder, script: str) -> list[str]:
    found = builder.run(script).replace("regular file", "f").replace("directory", "d")
    return found.replace("symbolic link", "l").splitlines()


def test_copy_follows_dockers_rules(builder: Builder) -> None:
    builder.write(a="a", b="b", dir__x="x", dir__sub__y="y", dir__skip="s")
    os.symlink("x", builder.path("dir__link"))
    os.chmod(builder.path("dir__sub"), 0o751)
    os.chmod(builder.path("a"), 0o4711)
    os.utime(builder.path("a"), ns=(0, 1_234_567_890_123_456_789))
    builder.write(**{".dockerignore": "**/skip"})
    with tarfile.open(builder.path("t.tar.xz"), "w:xz") as archive:
        archive.add(builder.path("dir__x"), "in/x", filter=_owned)
    builder.good(
        """FROM ${BASE}
RUN mkdir /there && chmod 700 /there && ln -s /there /toit
COPY a /there
COPY a /new/name
COPY a b /both/
COPY dir /dir
COPY dir /toit/
COPY dir/* /flat/
COPY b /bin/
ADD t.tar.xz /ar
COPY t.tar.xz /ar
COPY <<EOF /heredoc
$BASE
EOF
"""
    )
    assert looked(
        builder,
        f"{STAT} /there /there/a /new/name /both/* /dir /dir/* /bin /usr/bin/b /ar/* /ar/in/x;"
        " find /flat | sort; readlink /toit /dir/link; ls /there; stat -c %y /new/name;"
        " wc -c </heredoc",
    ) == [
        "/there 700 0:0 d",
        "/there/a 4711 0:0 f",
        "/new/name 4711 0:0 f",
        "/both/a 4711 0:0 f",
        "/both/b 644 0:0 f",
        "/dir 755 0:0 d",
        "/dir/link 777 0:0 l",
        "/dir/sub 751 0:0 d",
        "/dir/x 644 0:0 f",
        "/bin 777 0:0 l",
        "/usr/bin/b 644 0:0 f",
        "/ar/in 755 0:0 d",
        "/ar/t.tar.xz 644 0:0 f",
        "/ar/in/x 644 7:8 f",
        "/flat",
        "/flat/link",
        "/flat/x",
        "/flat/y",
        "/there",
        "x",
        "a",
        "link",
        "sub",
        "x",
        "2009-02-13 23:31:30.123456789 +0000",
        "1",
    ]  # fmt: skip


def test_owners(builder: Builder) -> None:
    builder.write(a="a", b="b", dir__x="x")
    builder.good(
        """FROM ${BASE}
RUN useradd -u 77 -g 9 -M joe
COPY --chown=joe a /joe/one
COPY --chown=joe:tty --chmod=640 dir /joes
COPY --chown=55 b /n
WORKDIR /w/d
COPY a .
COPY b ./c
USER joe
WORKDIR /j
RUN echo >mine && id -un
COPY a roots
USER 1234:5
RUN id -u >/tmp/number; id -g >>/tmp/number
"""
    )
    assert looked(
        builder,
        f"{STAT} /joe /joe/one /joes /joes/x /n /w/d/* /j /j/mine /j/roots; cat /tmp/number",
    ) == [
        "/joe 755 77:9 d",
        "/joe/one 644 77:9 f",
        "/joes 640 77:5 d",
        "/joes/x 640 77:5 f",
        "/n 644 55:55 f",
        "/w/d/a 644 0:0 f",
        "/w/d/c 644 0:0 f",
        "/j 755 77:9 d",
        "/j/mine 644 77:9 f",
        "/j/roots 644 0:0 f",
        "1234",
        "5",
    ]


def _owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid, member.gid = 7, 8
    return member


def test_stages(builder: Builder) -> None:
    builder.write(main="text")
    text = """FROM ${BASE} AS one
COPY main /src/main
RUN mkdir -p /out/lib && cp /src/main /out/lib/so.1 && ln -s so.1 /out/lib/so && \\
    chown 3:4 /out/lib/so.1 && ln -s /out /alias
FROM ${BASE} AS unused
RUN false
FROM one AS two
RUN echo two >/out/two
FROM ${BASE}
COPY --from=two /out /all
COPY --from=one /alias/lib/so /alias/lib/so* /some/
COPY --from=0 --chown=9:9 /out/lib/so.1 /single
COPY --from=IMAGE /etc/debian_version /etc/issue /other/
""".replace("IMAGE", IMAGE)
    said = builder.good(text)
    assert "RUN false" not in said
    found = builder.run(
        "cd /all; find . | sort; stat -c '%u:%g %F' lib/so.1 /single; readlink lib/so;"
        " find /some /other | sort; test -L /some/so || echo file"
    )
    assert " ".join(found.split()) == (
        ". ./lib ./lib/so ./lib/so.1 ./two 3:4 regular file 9:9 regular file so.1 /other"
        " /other/debian_version /other/issue /some /some/so /some/so.1 file"
    )
    assert cached(builder.good(text)) == [True] * 7
    only = builder.good(text, "--target", "one")
    assert cached(only) == [True] * 2
    assert builder.build(text, "--target", "none").status == 2


def test_from_scratch(builder: Builder) -> None:
    builder.write(a="a")
    builder.good('FROM scratch\nCOPY a /x/\nWORKDIR /y\nCMD ["/none"]')
    builder.write(Tail="FROM made\nCOPY a /z")
    words = builder.apppot.verb("build", "-t", "two", "-f", "Tail", ".")
    assert builder.apppot.call(words).status == 0
    builder.good("FROM ${BASE}\nCOPY --from=two / /got")
    assert builder.run("cd /got; find . -type f | sort; stat -c %F y").split() == [
        "./x/a", "./z", "directory",
    ]  # fmt: skip
    done = builder.build("FROM scratch\nLABEL a=b")
    assert done.status == 1
    assert "nothing to boot" in done.complaint


CACHE = """FROM ${BASE}
ARG V=1
COPY dir /d
RUN date +%N >/one
ENV E=1
RUN date +%N >/two
LABEL l=1
"""


def test_the_cache(builder: Builder) -> None:
    builder.write(dir__x="x")
    assert cached(builder.good(CACHE)) == [False] * 3
    first = builder.config()["digest"]
    os.utime(builder.path("dir__x"), (5, 5))  # times do not count
    began = time.monotonic()
    assert cached(builder.good(CACHE)) == [True] * 3
    assert time.monotonic() - began < 5
    assert builder.config()["digest"] == first
    assert cached(builder.good(CACHE.replace("l=1", "l=2"))) == [True] * 3
    assert builder.config()["digest"] != first
    assert cached(builder.good(CACHE.replace("E=1", "E=2"))) == [True, True, False]
    assert cached(builder.good(CACHE, "--build-arg", "V=2")) == [True, False, False]
    assert cached(builder.good(CACHE, "--build-arg", "http_proxy=x")) == [True] * 3
    assert cached(builder.good(CACHE, "--no-cache")) == [False] * 3
    assert cached(builder.good(CACHE)) == [True] * 3
    builder.write(dir__x="other")
    assert cached(builder.good(CACHE)) == [False] * 3
    # A file that was not copied does not count.
    builder.write(dir__log="l", **{".dockerignore": "**/log"})
    assert cached(builder.good(CACHE)) == [True] * 3


def test_the_same_inputs_give_the_same_image(builder: Builder) -> None:
    builder.write(a="a")
    os.utime(builder.path("a"), (5, 5))
    text = "FROM ${BASE}\nCOPY a /a\nRUN echo x >/a && touch -d @1 /a\nWORKDIR /etc\n"
    steady = Builder(builder.apppot.having(SOURCE_DATE_EPOCH="1000000000"))
    digests = set()
    for _ in range(2):
        steady.good(text, "--no-cache")
        shown = steady.config()
        digests.add(shown["digest"])
        assert shown["config"]["created"] == "2001-09-09T01:46:40Z"
    assert len(digests) == 1


def test_quiet_prints_the_digest_alone(builder: Builder) -> None:
    done = builder.build("FROM ${BASE}\nRUN echo said", "-q")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.text)
    assert done.complaint == ""


def test_configuration_is_used_by_run(builder: Builder) -> None:
    builder.good(
        'FROM ${BASE}\nENV A=1 B="x y"\nWORKDIR /srv\nENTRYPOINT ["/bin/echo", "$A"]\nCMD ["c"]\n'
        "LABEL who=me"
    )
    words = ("run", "--network", "none", "--no-job-dir", "made")
    assert builder.apppot.call(builder.apppot.verb(*words)).text == "$A c\n"
    assert builder.apppot.call(builder.apppot.verb(*words, "--", "d")).text == "$A d\n"
    other = ("run", "--network", "none", "--no-job-dir", "--entrypoint")
    for entry, said in (("echo -n 'a  b'", "a  b d"), ('["echo"]', "d\n"), ("", "")):
        command = ("d",) if entry else ("true",)
        done = builder.apppot.call(builder.apppot.verb(*other, entry, "made", "--", *command))
        assert (done.status, done.text) == (0, said), done.complaint
    bad = builder.apppot.call(builder.apppot.verb(*other, '["a\\u0000"]', "made"))
    assert (bad.status, bad.complaint[:7]) == (125, "apppot:")


def test_triggers_of_the_base(builder: Builder) -> None:
    builder.write(a="a")
    builder.good("FROM ${BASE}\nONBUILD COPY a /from-child\nONBUILD RUN echo child >/ran")
    builder.write(Child="FROM made\nRUN cat /ran /from-child")
    words = builder.apppot.verb("build", "--network=none", "-t", "child", "-f", "Child", ".")
    done = builder.apppot.call(words)
    assert done.status == 0, done.complaint
    assert "child\na" in done.complaint


def test_containerfile_from_standard_input(builder: Builder) -> None:
    builder.write(a="a")
    text = f"FROM {IMAGE}\nCOPY a /a\n".encode()
    words = builder.apppot.verb("build", "-t", "made", "-f", "-", ".")
    done = builder.apppot.call(words, stdin=text)
    assert done.status == 0, done.complaint
    bad = builder.apppot.call(words, stdin=b"FROM x\nFOO")
    assert bad.complaint.startswith("apppot: stdin:2: FOO")


def test_a_compiled_program(builder: Builder) -> None:
    """Compile in one stage and run in another, if the base has a compiler."""
    if builder.run("command -v cc >/dev/null && echo yes || echo no", IMAGE) != "yes\n":
        pytest.skip(f"{IMAGE} has no C compiler: name one that has with APPPOT_TEST_IMAGE")
    builder.write(**{"main.c": '#include <stdio.h>\nint main(void) { puts("made"); }\n'})
    builder.good(
        "FROM ${BASE} AS make\nWORKDIR /src\nCOPY main.c .\nRUN cc -static -o main main.c\n"
        'FROM scratch\nCOPY --from=make /src/main /main\nENTRYPOINT ["/main"]'
    )
    words = ("run", "--network", "none", "--no-job-dir", "made")
    assert builder.apppot.call(builder.apppot.verb(*words)).text == "made\n"


def test_packages_are_installed(builder: Builder) -> None:
    """Install what needs a real root: users, a set-user-ID program, a service's scripts."""
    if os.environ.get("APPPOT_TEST_MIRROR") != "1":
        pytest.skip("needs a mirror that machines can reach: set APPPOT_TEST_MIRROR=1")
    text = f"FROM {IMAGE}\nRUN apt-get update && apt-get install -y --no-install-recommends at\n"
    builder.write(Containerfile=text)
    words = builder.apppot.verb("build", "-t", "made", ".")
    done = builder.apppot.call(words, timeout=10 * PATIENCE)
    assert done.status == 0, done.complaint
    assert builder.run("stat -c '%a %U:%G' /usr/bin/at; stat -c %U:%G /var/spool/cron/atjobs") == (
        "6755 daemon:daemon\ndaemon:daemon\n"
    )


class Web(SimpleHTTPRequestHandler):
    """The context's folder, on loopback."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_add_fetches_from_web_servers(builder: Builder) -> None:
    builder.write(file="local", web__one="1", web__two="2")
    with tarfile.open(builder.path("web__a.tar"), "w") as tar:
        tar.add(builder.path("file"), "inner")
    folder = builder.path("web")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        text = f"""FROM ${{BASE}}
ADD {url}/one /named
ADD --chown=5 {url}/one {url}/two file {url}/a.tar /in/
"""
        assert cached(builder.good(text)) == [False, False]
        assert cached(builder.good(text)) == [True, True]
        builder.write(web__two="3")
        assert cached(builder.good(text)) == [True, False]
        missing = builder.build(f"FROM ${{BASE}}\nADD {url}/none /x")
        assert (missing.status, "404" in missing.complaint) == (1, True)
        server.shutdown()
    found = looked(builder, f"cd /in; cat /named one two file; echo; {STAT} /named *")
    assert found == [
        "113local",
        "/named 600 0:0 f",
        "a.tar 600 5:5 f",
        "file 644 5:5 f",
        "one 600 5:5 f",
        "two 600 5:5 f",
    ]


def test_an_image_gets_several_names(builder: Builder) -> None:
    builder.write(Containerfile=f"FROM {IMAGE}\nRUN echo one >/one")
    done = builder.apppot.call(builder.words("-t", "other:2", "--tag=made:latest"))
    assert done.status == 0, done.complaint
    names = dict(line.split() for line in done.text.splitlines())
    assert list(names) == ["made:latest", "other:2"]
    assert len(set(names.values())) == 1
    assert builder.run("cat /one", "other:2") == "one\n"
    quiet = builder.apppot.call(builder.words("-q", "-t", "other:2"))
    assert quiet.text.split() == [names["other:2"]]
