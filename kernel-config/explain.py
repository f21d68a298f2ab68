#!/usr/bin/env python3
"""Says in Kconfig's terms why options of a kernel configuration have the value that they have.

Usage: explain.py CONFIG OPTION...

Runs in the kernel's source with the variables that its Makefile would set (srctree, ARCH, SRCARCH,
CC, LD, KERNELVERSION, ...). Prints one JSON object:
  {"version": "6.1.192", "options": {"NAME": {
      "exists": bool, "value": "y", "type": "tristate", "prompt": bool,
      "visible": "m",                                    how far a person may set it
      "unmet": ["needs `MISC_FILESYSTEMS` = y (is n)"],  what hides the option, or holds it at m
      "selectors": ["NET_IPIP"],                         options that select it
      "forced_by": ["NET_IPIP"],                         those of them that do so now
      "choice": ["SLUB"]                                 what its choice chose instead
  }}}
"""

import json
import os
import sys

import kconfiglib
from kconfiglib import AND, NOT, OR, Choice, Symbol, expr_str, expr_value


def name_of(item):
    if isinstance(item, Choice):
        return "a choice: " + item.nodes[0].prompt[0]
    return item.name


def is_leaf(expr):
    return not isinstance(expr, tuple)


def hidden_by(condition):
    """What keeps an option off, or, where it can be a module, what keeps it from being built in."""
    return unmet(condition, expr_value(condition) + 1)


def unmet(expr, target):
    """The parts of `expr` that keep it below `target` (1 is m, 2 is y); a list, all of which are needed."""
    if expr_value(expr) >= min(target, 2):
        return []
    if isinstance(expr, Choice):
        return choice_unmet(expr) or [leaf(expr, target)]
    if is_leaf(expr):
        return [leaf(expr, target)]
    if expr[0] is AND:
        return list(dict.fromkeys(unmet(expr[1], target) + unmet(expr[2], target)))
    if expr[0] is OR:
        sides = [unmet(side, target) for side in alternatives(expr)]
        return ["either " + ", or ".join(" and ".join(side) for side in sides)] if len(sides) > 1 else sides[0]
    if expr[0] is NOT and is_leaf(expr[1]):
        return [f"needs `{name_of(expr[1])}` = n (is {expr[1].str_value})"]
    return [f"needs `{expr_str(expr)}`"]


def choice_unmet(choice):
    """A choice is no option that a person could set: what hides it is what the options in it need."""
    ways = [hidden_by(node.prompt[1]) for node in choice.nodes if node.prompt]
    return min(ways, key=len, default=[])


def alternatives(expr):
    if not is_leaf(expr) and expr[0] is OR:
        return alternatives(expr[1]) + alternatives(expr[2])
    return [expr]


def leaf(item, target):
    if item.name == "n":
        return "is switched off for good in this architecture"
    if isinstance(item, Symbol) and not item.nodes:
        return f"needs `{item.name}`, which no Kconfig file of this kernel for this architecture defines"
    want = "m or y" if target == 1 and item.orig_type == kconfiglib.TRISTATE else "y"
    state = f"needs `{name_of(item)}` = {want} (is {item.str_value})"
    if isinstance(item, Symbol) and not any(node.prompt for node in item.nodes):
        state += by_selection(item)
    return state


def by_selection(item):
    names = selectors(item)
    return f", which only others select: {', '.join(names[:6])}" if names else ", which has no prompt"


def selectors(symbol, active=False):
    """Names of the options that select `symbol`; only those that do so now if `active`."""
    names = []
    for side in alternatives(symbol.rev_dep):
        first = side
        while not is_leaf(first):
            first = first[1]
        if isinstance(first, Symbol) and not first.is_constant and (not active or expr_value(side) > 0):
            names.append(first.name)
    return list(dict.fromkeys(names))


def explain(kconf, name):
    symbol = kconf.syms.get(name)
    if symbol is None or not symbol.nodes:
        return {"exists": False, "value": "n", "type": "unknown", "prompt": False, "visible": "n",
                "unmet": [], "selectors": [], "forced_by": [], "choice": []}
    prompts = [node.prompt[1] for node in symbol.nodes if node.prompt]
    ways = [hidden_by(condition) for condition in prompts or [symbol.direct_dep]]
    chosen = symbol.choice.selection if symbol.choice is not None else None
    return {
        "exists": True,
        "value": symbol.str_value,
        "type": kconfiglib.TYPE_TO_STR[symbol.orig_type],
        "prompt": bool(prompts),
        "visible": kconfiglib.TRI_TO_STR[symbol.visibility],
        "unmet": min(ways, key=len),
        "selectors": selectors(symbol),
        "forced_by": selectors(symbol, active=True),
        "choice": [chosen.name] if chosen is not None and chosen is not symbol else [],
    }


def main():
    config, names = sys.argv[1], sys.argv[2:]
    try:
        kconf = kconfiglib.Kconfig(warn=False)
        kconf.load_config(config)
    except (OSError, kconfiglib.KconfigError) as error:
        # Debian 12's stops at the attribute `modules` in `kernel/module/Kconfig`; Debian 13's knows it.
        sys.exit(f"explain.py: kconfiglib cannot read the kernel's Kconfig files or `{config}`: {error}")
    options = {name: explain(kconf, name) for name in names}
    json.dump({"version": os.environ.get("KERNELVERSION", ""), "options": options}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
