"""Which files a name on the command line stands for, and which array in them."""

import glob
import os


def split(path: str) -> tuple[str, str]:
    """File and name of the array in it, of ``FILE::NAME``. A file that exists may have "::" in its own name."""
    parts = path.split("::")
    known = (k for k in range(len(parts), 0, -1) if os.path.lexists("::".join(parts[:k])))
    k = next(known, 1)
    return "::".join(parts[:k]).rstrip("/"), "::".join(parts[k:])


def files_of(name: str) -> list[str]:
    """The file of exactly this name, as a shell hands it over, whatever its characters; else those that match it as a pattern; else itself.

    Of ``FILE::NAME`` the file alone is looked for, and may be a pattern.
    """
    if os.path.lexists(split(name)[0]):
        return [name]
    file, colons, array = name.partition("::")
    return sorted(glob.glob(name)) or [f"{found}{colons}{array}" for found in sorted(glob.glob(file))] or [name]
