"""The processor of this machine."""

import platform
from pathlib import Path


def named() -> str:
    """Its model, as the operating system names it."""
    fields = _fields()
    if not fields:
        return platform.processor()
    return f"{fields.get('model name', '?')} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def vnni() -> bool:
    """Whether it has exact dot products of bytes: AVX512-VNNI or AVX-VNNI."""
    flags = _fields().get("flags", "").split()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def _fields() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
