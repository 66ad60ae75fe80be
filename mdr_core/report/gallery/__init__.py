"""What models retrieve, image by image: figures for print, and a page to explore."""
