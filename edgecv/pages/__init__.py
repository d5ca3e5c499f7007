"""What the HTML pages share: one look (`base.html.j2`), SVG figures (`svg`, `figures`), filling a template (`html`)."""
