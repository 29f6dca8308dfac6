"""`carellama data clean`: duplicates, filters, exam questions and identifiers out of training data, all counted."""
