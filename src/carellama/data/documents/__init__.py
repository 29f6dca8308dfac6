"""Documents and books to text: docx, pdf, html, md, txt and what other formats markitdown reads."""
