"""For the tests of views: what the plotting library keeps open for good is open before any test is asked what it left.

These are its two font files.
"""

from __future__ import annotations

from flyte_notebook.views.charts import chart

chart.warm()
