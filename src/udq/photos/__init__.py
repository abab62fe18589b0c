"""Source -> Photo: finds photos in folders, archives and storage, and decodes them, in processes of their own."""
