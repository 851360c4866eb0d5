"""Who is eligible? Pure rules over conditions; ejection and its kin join here."""
