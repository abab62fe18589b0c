"""The same stages on many machines, by Ray: who looks at photos, who trains, who holds codes. Extra ``udq[ray]``.

Nothing here looks at a photo, trains or scans itself: workers call what one machine calls, and this package says which
part is whose. Ray moves data, starts workers anew and gives lost work to others.
"""
