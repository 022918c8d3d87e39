package rest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"dkv/lock"
	"dkv/store"
)

func TestTransactionsDoWhatTheySay(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	ctx := background(t)
	locks := lock.New(db)
	defer locks.Close()
	owner, ok, err := locks.Acquire(ctx, "l", time.Hour) // revision 1
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	for i, c := range []struct{ body, want string }{
		{`{}`, `{"held":true,"revision":1,"results":[]}`},
		{`{"if":null,"then":[]}`, `{"held":true,"revision":1,"results":[]}`},
		{
			`{"if":[{"kind":"missing","key":"a"}],"then":[{"op":"set","key":"a","text":"1"},{"op":"set","key":"b","value":"dg=="},{"op":"get","key":"a"}]}`,
			`{"held":true,"revision":3,"results":[{"done":true,"revision":2},{"done":true,"revision":3},{"done":false}]}`,
		},
		{
			`{"if":[{"kind":"missing","key":"a"}],"then":[{"op":"delete","key":"a"}],"else":[{"op":"get","key":"a"},{"op":"get","key":"b"}]}`,
			`{"held":false,"revision":3,"results":[{"done":true,"revision":2,"value":"MQ=="},{"done":true,"revision":3,"value":"dg=="}]}`,
		},
		{
			`{"if":[{"kind":"revision","key":"a","revision":2},{"kind":"exists","key":"b"},{"kind":"value","key":"b","text":"v"},` +
				fmt.Sprintf(`{"kind":"lock","key":"l","token":%d}],`, owner.Token()) +
				`"then":[{"op":"add","key":"a","delta":-1},{"op":"expire","key":"b"},{"op":"setIfUnset","key":"c","text":""},{"op":"setIfUnset","key":"b","text":"w"}]}`,
			``,
		},
		{
			`{"if":[{"kind":"value","key":"b","value":"dg=="}],"then":[{"op":"add","key":"a","delta":-1},{"op":"expire","key":"b"},{"op":"setIfUnset","key":"c","text":""}]}`,
			`{"held":true,"revision":6,"results":[{"done":true,"revision":4,"number":0},{"done":true,"revision":5},{"done":true,"revision":6}]}`,
		},
		{
			`{"if":[{"kind":"lock","key":"l","token":7}],"else":[{"op":"get","key":"b"},{"op":"get","key":"c"}]}`,
			`{"held":false,"revision":6,"results":[{"done":true,"revision":5,"expired":true},{"done":true,"revision":6,"value":""}]}`,
		},
		{
			`{"then":[{"op":"set","keyBase64":"/w==","text":"\u0001\ud83d\ude00\\ud800\ufffd","deleteIn":"1h","expireIn":"1m"},{"op":"delete","key":"nothing"}]}`,
			`{"held":true,"revision":7,"results":[{"done":true,"revision":7},{"done":false}]}`,
		},
	} {
		status := 200
		if c.want == "" {
			status = 400 // it writes b twice
		}
		if r := s.want(status, "POST", "/v1/shards/1/txn", c.body); c.want != "" && r.body != c.want+"\n" {
			t.Errorf("%d: %s, want %s", i, r.body, c.want)
		}
	}
	e, ok, err := db.GetEntry(ctx, "\xff")
	if string(e.Value) != "\x01😀\\ud800\ufffd" || e.ExpireIn == 0 || e.ExpireIn > time.Minute || e.DeleteIn < time.Minute || !ok || err != nil {
		t.Errorf("%+v, %v, %v", e, ok, err)
	}
}

func TestWhatIsNoTransactionIsRefused(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	op := func(fields string) string { return `{"then":[{` + fields + `}]}` }
	cond := func(fields string) string {
		return `{"if":[{` + fields + `}],"then":[{"op":"set","key":"k","text":"v"}]}`
	}
	for _, body := range []string{
		``, `null null`, `[]`, `7`, `"x"`, `{`, `{}{}`, `{} x`, `{"iff":[]}`, `{"then":{}}`, `{"then":7}`, `{"then":[7]}`,
		`{"then":[null]}`, "{\"then\":[{\"op\":\"set\",\"key\":\"\xff\",\"text\":\"v\"}]}",
		op(``), op(`"op":"set"`), op(`"op":"set","key":"k"`), op(`"op":"set","key":"","text":"v"`),
		op(`"op":"drop","key":"k"`), op(`"op":7,"key":"k"`), op(`"op":"set","key":"k","text":"v","value":"dg=="`),
		op(`"op":"set","key":"k","keyBase64":"aw==","text":"v"`), op(`"op":"set","key":"k","value":"!"`),
		op(`"op":"set","key":"k","text":"v","ttl":"1s"`), op(`"op":"set","key":"k","text":"v","expireIn":"-1s"`),
		op(`"op":"set","key":"k","text":"v","expireIn":5`), op(`"op":"set","key":"k","text":"v","delta":1`),
		op(`"op":"set","key":"\ud800","text":"v"`), op(`"op":"set","key":"k","text":"\udc00\ud800"`), op(`"op":"set","key":"k","text":"\ud800\u0041"`),
		op(`"op":"get","key":"k","text":"v"`), op(`"op":"delete","key":"k","expireIn":"1s"`), op(`"op":"expire","key":"k","deleteIn":"1s"`),
		op(`"op":"add","key":"k"`), op(`"op":"add","key":"k","delta":1.5`), op(`"op":"add","key":"k","delta":9223372036854775808`),
		op(`"op":"set","key":"k","text":"v"},{"op":"delete","key":"k"`),
		cond(`"key":"k"`), cond(`"kind":"revision","key":"k"`), cond(`"kind":"revision","key":"k","revision":-1`), cond(`"kind":"exists"`),
		cond(`"kind":"exists","key":"k","revision":1`), cond(`"kind":"missing","key":"k","text":""`), cond(`"kind":"value","key":"k"`),
		cond(`"kind":"lock","key":"k","revision":1`), cond(`"kind":"lock","key":"k"`),
		`{"then":[` + strings.Repeat(`{"op":"get","key":"k"},`, store.MaxTxnOps) + `{"op":"get","key":"k"}]}`,
		`{"then":[` + strings.Repeat(`{},`, 1<<20) + `{}]}`,
		strings.Repeat(`{"then":[`, 1<<16),
	} {
		if r := s.want(400, "POST", "/v1/shards/1/txn", body); !strings.Contains(r.body, `"final"`) {
			t.Errorf("%.100s: %s", body, r.body)
		}
	}
	s.want(413, "POST", "/v1/shards/1/txn", op(`"op":"set","key":"`+strings.Repeat("k", store.MaxKeySize+1)+`","text":"v"`))
	if info, _ := db.Info(background(t)); info.Revision != 0 {
		t.Error("something was done")
	}
}

func TestLargestTransactionFits(t *testing.T) {
	s := open(t, nil, memory(t))
	value := strings.Repeat("A", (store.MaxTxnSize-3)/3*4) // base64
	s.want(200, "POST", "/v1/shards/1/txn?timeout=1m", `{"then":[{"op":"set","key":"k","value":"`+value+`"}]}`)
}
