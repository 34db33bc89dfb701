-- What a global admin allowed a zone, where that is not the product's own figure.
create table quotas (
  zone_id    text not null references zones (id),
  name       text not null,
  max        integer not null check (max >= 0),
  updated_at timestamptz not null default now(),
  primary key (zone_id, name)
);
