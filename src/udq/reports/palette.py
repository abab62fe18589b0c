"""Colours of figures, sheets and pages.

Series and boxes use hues after Okabe and Ito, which remain distinct under colour blindness. The three box colours are
repeated in ``templates/style.css``.
"""

from __future__ import annotations

# Text and outlines, secondary text, grid lines, alternating bands, empty places.
INK = "#1b1f24"
QUIET = "#5c6670"
GRID = "#dfe3e7"
BAND = "#f3f5f7"
EMPTY = "#eef0f2"

# Boxes on photos: lightened, because photos are mostly dark.
RIGHT = "#3d9cff"
WRONG = "#ff9626"
QUERY = "#ffe14d"

# Lines of charts, on white.
SERIES = ("#0072b2", "#d55e00", "#007a5a", "#a8577e", "#7a6a00")
# Thin lines across photos.
LIGHT_SERIES = ("#56b4e9", "#e69f00", "#f0e442", "#6fd6b0", "#f2a7cf")
