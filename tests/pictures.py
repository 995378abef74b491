"""Whether a figure's words can be read: all of them on it, no title upon another."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def texts(figure):
    """Every text that is seen, with its place on the picture in pixels."""
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    unseen = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            # Ticks outside the range of an axis have a place, but are not drawn.
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            outside = [tick for tick in ticks if not low <= tick.get_loc() <= high]
            unseen |= {label for tick in outside for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text not in unseen and text.get_visible() and text.get_text().strip():
            yield text.get_text(), text.get_window_extent()


def assert_whole(figure):
    """No text leaves the figure, no title touches another one."""
    places = list(texts(figure))
    width, height = figure.canvas.get_width_height()
    for words, box in places:
        assert box.x0 >= -1, words
        assert box.y0 >= -1, words
        assert box.x1 <= width + 1, words
        assert box.y1 <= height + 1, words
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title() and axes.get_visible()]
    if figure.get_suptitle():
        titles.append(figure._suptitle.get_window_extent())
    for k, one in enumerate(titles):
        assert not any(one.overlaps(other) for other in titles[k + 1 :])
