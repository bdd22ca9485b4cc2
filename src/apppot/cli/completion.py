"""Print a shell's completion script: eval "$(apppot completion bash)"."""

from __future__ import annotations

import argparse

from apppot.cli import VERBS

_BASH = """\
_apppot() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W '{verbs}' -- "$word")
        return
    fi
    local options='' names=''
    case $verb in
{cases}
    esac
    case $word in
        -*) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word");;
        *)
            case $verb in
                run|shell|inspect|rm|tag) names=$(apppot images --quiet 2>/dev/null);;
                exec|stop|logs|checkpoint) names=$(apppot ps --quiet 2>/dev/null);;
            esac
            mapfile -t COMPREPLY < <(compgen -W "$names" -- "$word")
            [ ${{#COMPREPLY[@]}} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$word")
            ;;
    esac
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}
complete -o filenames -F _apppot apppot
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_FISH = "complete -c apppot -f -n __fish_use_subcommand -a '{verb}' -d '{what}'\n"
_FISH_OPTION = (
    "complete -c apppot -n '__fish_seen_subcommand_from {verb}' -l '{name}' -d '{what}'\n"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")


def main(options: argparse.Namespace) -> int:
    """Print the script."""
    if options.shell == "fish":
        print(_fish(), end="")
    else:
        print((_ZSH if options.shell == "zsh" else "") + _bash(), end="")
    return 0


def _options(verb: str) -> list[tuple[str, str]]:
    """Return a verb's long options with their help."""
    from apppot.cli.parser import verb_parser

    _, parser = verb_parser(verb)
    return [
        (name, action.help or "")
        for action in parser._actions  # noqa: SLF001  argparse offers no other way
        if action.help != argparse.SUPPRESS
        for name in action.option_strings
        if name.startswith("--")
    ]


def _bash() -> str:
    cases = "\n".join(
        f"        {verb}) options='{' '.join(name for name, _ in _options(verb))}';;"
        for verb in VERBS
    )
    return _BASH.format(verbs=" ".join(VERBS), cases=cases)


def _fish() -> str:
    quoted = str.maketrans({"'": "\\'", "\\": "\\\\"})
    lines = [_FISH.format(verb=verb, what=what.translate(quoted)) for verb, what in VERBS.items()]
    for verb in VERBS:
        lines += [
            _FISH_OPTION.format(verb=verb, name=name[2:], what=what.translate(quoted))
            for name, what in _options(verb)
        ]
    return "".join(lines)
