"""Where real texts lie that the package does not carry; what needs them is skipped where they are not."""

from shridhar_ft.shipped import ROOT

REAL_DATA = ROOT.parent / "shared" / "data"
