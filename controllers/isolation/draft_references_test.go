package isolation

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestReferencesAreHostsAndNotWords(t *testing.T) {
	services := map[types.NamespacedName]*corev1.Service{}
	for _, key := range []types.NamespacedName{
		{Namespace: "shop", Name: "db"},
		{Namespace: "shop", Name: "api"},
		{Namespace: "shop", Name: "redis"},
		{Namespace: "shop", Name: "my-db"},
		{Namespace: "finance", Name: "ledger"},
		{Namespace: "com", Name: "example"},
	} {
		services[key] = &corev1.Service{}
	}
	for _, row := range []struct{ key, text, names string }{
		// hosts
		{"DB_HOST", "db", "shop/db"},
		{"", "db", "shop/db"},
		{"DB", "db:5432", "shop/db:5432"},
		{"URL", "http://api", "shop/api"},
		{"URL", "http://API:80/v1?x=y", "shop/api:80"},
		{"URL", "postgres://user:secret@db/shop", "shop/db"},
		{"URL", "redis://redis:6379/0", "shop/redis:6379"},
		{"BROKERS", "db:1,api:2;redis:3", "shop/db:1 shop/api:2 shop/redis:3"},
		{"DSN", "host=db port=5432", "shop/db"},
		{"config", "server:\n  host: \"db\"\n", "shop/db"},
		{"config.json", `{"host": "db"}`, "shop/db"},
		{"", "--db-host=db", "shop/db"},
		{"X", "db.shop", "shop/db"},
		{"X", "db.shop.svc", "shop/db"},
		{"X", "http://db.shop.svc.cluster.local.:80/", "shop/db"},
		{"X", "ledger.finance", "finance/ledger"},
		{"X", "queue.finance.svc:5672", "finance/queue:5672"},
		{"X", "db-0.db,db-1.db.shop", "shop/db shop/db"},
		{"X", "db-0.db.shop.svc.cluster.local", "shop/db"},
		{"X", "my-db:1", "shop/my-db:1"},

		// words that may be either
		{"DB_NAME", "db", "shop/db?"},
		{"config", "database: db\n", "shop/db?"},

		// words
		{"X", "the db is slow", ""},
		{"X", "/api/v1", ""},
		{"X", "mydb:5432", ""},
		{"X", "db-backup:5432", ""},
		{"X", "not_db:1", ""},
		{"X", "db_x", ""},
		{"X", "api.example.org", ""},
		{"X", "www.api.org", ""},
		{"X", "ledger.finance.example.org", ""},
		{"X", "queue:5672", ""},
		{"X", "redis:7.2-alpine", ""},
		{"X", "redis://other", ""},
		{"X", "backup.db", ""},
		{"X", "example.com", "com/example"}, // a Service of a namespace com, if there is one
	} {
		var names string
		for _, r := range referencesIn(setting{key: row.key, text: row.text}, "shop", services) {
			if names != "" {
				names += " "
			}
			names += r.service.String()
			if r.port != 0 {
				names += fmt.Sprintf(":%d", r.port)
			}
			if r.unsure {
				names += "?"
			}
		}
		NewWithT(t).Expect(names).To(Equal(row.names), "%s=%s", row.key, row.text)
	}
}
