"""What the HTML pages share: one look (`base.html.j2`), figures as SVG (`svg`, `figures`), filling a template (`html`)."""
