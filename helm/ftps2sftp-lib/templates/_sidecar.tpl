{{- /*
The gateway as a sidecar. Each template takes the root of the application's chart:

  initContainers:  {{ include "ftps2sftp-lib.initContainer" . }}   below `initContainers`, as one item of the list
  volumes:         {{ include "ftps2sftp-lib.volumes" . }}         below `volumes`, as items of the list
  config:          {{ include "ftps2sftp-lib.configMap" . }}       an object of its own
  metrics:         {{ include "ftps2sftp-lib.podMonitor" . }}      another, empty unless `podMonitor.enabled`
*/}}

{{- define "ftps2sftp-lib.configMapName" -}}
{{- printf "%s-ftps2sftp" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ftps2sftp-lib.validate" -}}
{{- $values := index .Values "ftps2sftp-lib" }}
{{- if not $values.tlsSecret }}
{{- fail "ftps2sftp-lib.tlsSecret: there is no FTPS without a certificate. Name a Secret of type kubernetes.io/tls that holds one for localhost." }}
{{- end }}
{{- range $key := list "backends" "users" }}
{{- if not (get $values.config $key) }}
{{- fail (printf "ftps2sftp-lib.config.%s: is missing; without it nobody can log in to anything." $key) }}
{{- end }}
{{- end }}
{{- if and $values.podMonitor.enabled (not $values.podMonitor.podLabels) }}
{{- fail "ftps2sftp-lib.podMonitor.podLabels: nothing says which pods are meant. Set the labels of the application's pods." }}
{{- end }}
{{- range $key := list "listeners" "passive" "admin" "shutdown" "tls" }}
{{- if hasKey $values.config $key }}
{{- fail (printf "ftps2sftp-lib.config.%s: the library writes this part. Use the values beside `config`." $key) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The bytes of a size as Kubernetes or the gateway writes it (512Mi, 1.5G, 8MiB, a number); empty for anything else. */}}
{{- define "ftps2sftp-lib.bytes" -}}
{{- $text := kindIs "string" . | ternary . (int64 . | toString) | toString | trimSuffix "B" }}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := trimPrefix $number $text }}
{{- if and $number (hasKey $units $unit) }}
{{- mulf (float64 $number) (get $units $unit) | int64 }}
{{- end }}
{{- end }}

{{- /* The configuration's limits. Where it says nothing of them, a window and as many sessions as have room for a transfer each
in the memory limit: a process that wants more is killed, and every session with it. */}}
{{- define "ftps2sftp-lib.limits" -}}
{{- $values := index .Values "ftps2sftp-lib" }}
{{- $limits := deepCopy ($values.config.limits | default dict) }}
{{- $resources := $values.resources | default dict }}
{{- $memory := include "ftps2sftp-lib.bytes" (get ($resources.limits | default dict) "memory") | int64 }}
{{- if $memory }}
{{- $window := $limits.transfer_window | default "1MiB" }}
{{- $_ := set $limits "transfer_window" $window }}
{{- $bytes := include "ftps2sftp-lib.bytes" $window | int64 }}
{{- if and $bytes (not (hasKey $limits "sessions")) }}
{{- /* 64 MiB for itself, and 128 KiB for a session. Never more than the gateway's own default. */}}
{{- $sessions := div (sub $memory 67108864) (add 131072 (mul 2 $bytes)) }}
{{- $_ := set $limits "sessions" (max 1 (min 10000 $sessions)) }}
{{- end }}
{{- end }}
{{- toYaml $limits }}
{{- end }}

{{- define "ftps2sftp-lib.config" -}}
{{- $values := index .Values "ftps2sftp-lib" }}
{{- $config := deepCopy $values.config }}
{{- range $backend := $config.backends }}
{{- if not (or $backend.known_hosts $backend.host_keys) }}
{{- $_ := set $backend "known_hosts" "/etc/ftps2sftp/known_hosts" }}
{{- end }}
{{- end }}
{{- with include "ftps2sftp-lib.limits" . | fromYaml }}
{{- $_ := set $config "limits" . }}
{{- end }}
{{- toYaml $config }}
# Only the application itself gets in; the address it dials is the one for data, too.
listeners:
  - name: explicit
    address: 127.0.0.1:{{ int64 $values.explicitPort }}
    tls: explicit
  - name: implicit
    address: 127.0.0.1:{{ int64 $values.implicitPort }}
    tls: implicit
passive:
  ports: {{ $values.passivePorts | quote }}
  address: auto
tls:
  certificates:
    - certificate: /tls/tls.crt
      key: /tls/tls.key
# The application is gone when a sidecar is told to stop: nobody is left to wait for.
shutdown:
  delay: 0s
  drain: {{ int64 $values.drainSeconds }}s
# Probes come from outside the pod.
admin:
  address: 0.0.0.0:{{ int64 $values.metricsPort }}
{{- end }}

{{- define "ftps2sftp-lib.configMap" -}}
{{- include "ftps2sftp-lib.validate" . -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "ftps2sftp-lib.configMapName" . }}
  labels:
    app.kubernetes.io/name: ftps2sftp
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/managed-by: {{ .Release.Service }}
data:
  config.yaml: |
    {{- include "ftps2sftp-lib.config" . | nindent 4 }}
  known_hosts: |
    {{- (index .Values "ftps2sftp-lib").knownHosts | nindent 4 }}
{{- end }}

{{- define "ftps2sftp-lib.podMonitor" -}}
{{- $values := index .Values "ftps2sftp-lib" }}
{{- $root := . }}
{{- with $values.podMonitor }}
{{- if .enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "ftps2sftp-lib.configMapName" $root }}
  labels:
    app.kubernetes.io/name: ftps2sftp
    app.kubernetes.io/instance: {{ $root.Release.Name }}
    app.kubernetes.io/managed-by: {{ $root.Release.Service }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- range $label, $value := .podLabels }}
      {{ $label }}: {{ tpl $value $root | quote }}
      {{- end }}
  podMetricsEndpoints:
    - port: ftps-metrics
      path: /metrics
      interval: {{ .interval }}
      relabelings:
        # The alerts know the gateway by ftps2sftp in its job; the application's name alone would tell them nothing.
        - targetLabel: job
          replacement: {{ include "ftps2sftp-lib.configMapName" $root }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ftps2sftp-lib.initContainer" -}}
{{- $values := index .Values "ftps2sftp-lib" -}}
- name: ftps2sftp
  image: {{ $values.repository }}{{ if $values.digest }}@{{ $values.digest }}{{ else }}:{{ $values.tag }}{{ end }}
  args: [run, --config, /etc/ftps2sftp/config.yaml]
  # What makes an init container a sidecar: the application starts once the startup probe succeeds, and ends first.
  restartPolicy: Always
  startupProbe:
    httpGet: {path: /startz, port: ftps-metrics}
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: /livez, port: ftps-metrics}
    periodSeconds: 10
  # Nothing is asked of the application with it: it never depends on a backend.
  readinessProbe:
    httpGet: {path: /readyz, port: ftps-metrics}
    periodSeconds: 5
  ports:
    - name: ftps-metrics
      containerPort: {{ int64 $values.metricsPort }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  resources: {{- toYaml $values.resources | nindent 4 }}
  volumeMounts:
    - name: ftps2sftp-config
      mountPath: /etc/ftps2sftp
      readOnly: true
    - name: ftps2sftp-tls
      mountPath: /tls
      readOnly: true
    {{- range $number, $name := $values.secrets }}
    - name: ftps2sftp-secret-{{ $number }}
      mountPath: /secrets/{{ $name }}
      readOnly: true
    {{- end }}
{{- end }}

{{- /* Files of Secrets are readable for the pod's fsGroup, which the application chooses: give the pod one. */}}
{{- define "ftps2sftp-lib.volumes" -}}
{{- $values := index .Values "ftps2sftp-lib" -}}
- name: ftps2sftp-config
  configMap:
    name: {{ include "ftps2sftp-lib.configMapName" . }}
- name: ftps2sftp-tls
  secret:
    secretName: {{ $values.tlsSecret }}
    defaultMode: 0440
{{- range $number, $name := $values.secrets }}
- name: ftps2sftp-secret-{{ $number }}
  secret:
    secretName: {{ $name }}
    defaultMode: 0440
{{- end }}
{{- end }}
