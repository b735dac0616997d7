"""What is systematically wrong with a model's masks, and what mending each error would gain."""

from __future__ import annotations

import sys
from types import ModuleType

from segmend.diagnose.case import Case, CaseSet
from segmend.diagnose.decompose import measure
from segmend.diagnose.entry import diagnose, judged, open_folders
from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.reading import FolderCases, TensorCases
from segmend.diagnose.reading_volumes import VolumeCases
from segmend.diagnose.result import Diagnosis, Fix, Verdict

__all__ = [
    "Case",
    "CaseSet",
    "DiagnoseOptions",
    "Diagnosis",
    "Fix",
    "FolderCases",
    "TensorCases",
    "Verdict",
    "VolumeCases",
    "diagnose",
    "judged",
    "measure",
    "open_folders",
]


class _Room(ModuleType):
    """`segmend.diagnose(probs, masks)` is the function, `segmend.diagnose.measure` a part."""

    __call__ = staticmethod(diagnose)


sys.modules[__name__].__class__ = _Room
