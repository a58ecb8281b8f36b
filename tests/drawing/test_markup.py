"""Markup: text stays text, tables align numbers, and a page follows the reader's colours."""

from __future__ import annotations

from kdcmae.drawing.markup import Html, page, section, table, tag

NASTY = "<b>&\"'</script>"


def test_text_and_attributes_are_escaped_and_html_is_kept():
    assert tag("p", "a < b", tag("b", "&"), class_='"x"') == '<p class="&quot;x&quot;">a &lt; b<b>&amp;</b></p>'
    assert isinstance(tag("p"), Html)


def test_elements_without_content_are_not_closed():
    assert tag("img", src="data:,", alt="a > b") == '<img src="data:," alt="a &gt; b">'


def test_numbers_are_flush_right_and_the_first_text_names_its_row():
    assert '<td class="number">1</td>' in table(("count#",), [("1",)])
    named = table(("name", "count#"), [("a", "1")])
    assert '<th scope="row">a</th><td class="number">1</td>' in named
    assert '<th scope="col" class="number">count</th>' in named


def test_a_page_escapes_its_texts_and_follows_the_reader_s_colours():
    shown = page(NASTY, [NASTY], [section(NASTY, table([NASTY], [(NASTY,)], caption=NASTY), NASTY, note=NASTY)])
    assert NASTY not in shown
    assert shown.count("&lt;b&gt;&amp;&quot;&#x27;&lt;/script&gt;") == 9
    assert "prefers-color-scheme: dark" in shown
    assert 'name="viewport"' in shown
    assert "http" not in shown


def test_cells_of_cards_carry_the_names_of_their_columns():
    written = table(("engine", "ms#"), [("a", "1")], cards=True)
    assert '<table class="cards">' in written
    assert '<td class="number" data-label="ms">1</td>' in written
    assert "data-label" not in table(("engine", "ms#"), [("a", "1")])
