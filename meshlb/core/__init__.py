"""The nouns and protocols that every other room speaks of; nothing here needs time, chance, a socket or a thread."""
